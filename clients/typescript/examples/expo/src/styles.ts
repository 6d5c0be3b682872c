/** How it looks. */

import { StyleSheet } from "react-native";

export const styles = StyleSheet.create({
  screen: { flex: 1, backgroundColor: "#f4f6fb" },
  list: { flex: 1, padding: 16, gap: 10 },
  row: { flexDirection: "row", alignItems: "center", gap: 10, paddingVertical: 6 },
  pending: { opacity: 0.6 },
  input: { flex: 1, backgroundColor: "#ffffff", borderRadius: 8, padding: 10, fontSize: 16 },
  box: { fontSize: 24, padding: 4 },
  title: { fontSize: 16, fontWeight: "600" },
  soft: { color: "#667089" },
  news: { backgroundColor: "#fff7e6", padding: 12, marginHorizontal: 16, marginTop: 8, borderRadius: 8 },
  conflict: { backgroundColor: "#fdeef0", padding: 12, borderRadius: 8, gap: 6 },
  problem: { backgroundColor: "#fdeef0", color: "#c53b4b", padding: 12 },
});
