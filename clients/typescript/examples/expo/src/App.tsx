/** A task list that works offline, says what waits, asks about conflicts, and shows what the user was notified of. */

import type { Client } from "@syncline/client";
import type { Push } from "@syncline/client/push";
import { SynclineProvider } from "@syncline/client/react";
import { useEffect, useState } from "react";
import { SafeAreaView, Text } from "react-native";
import { News } from "./News";
import { startPush } from "./push";
import { openClient } from "./sync";
import { styles } from "./styles";
import { Tasks } from "./Tasks";

export function App() {
  const [client, setClient] = useState<Client>();
  const [push, setPush] = useState<Push>();
  const [problem, setProblem] = useState("");
  useEffect(() => {
    void start().catch((error: unknown) => setProblem(String(error)));
    async function start() {
      const opened = await openClient();
      setClient(opened);
      // The list is there without a hub, and without pushes.
      opened.connect().catch((error: unknown) => setProblem(String(error)));
      setPush(await startPush(opened, setProblem));
    }
  }, []);
  return (
    <SafeAreaView style={styles.screen}>
      {problem !== "" && <Text style={styles.problem}>{problem}</Text>}
      {client && (
        <SynclineProvider client={client}>
          {push && <News push={push} />}
          <Tasks />
        </SynclineProvider>
      )}
    </SafeAreaView>
  );
}
