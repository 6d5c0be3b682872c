/** What the user was notified of and has not read; a press reads it. */

import type { Push } from "@syncline/client/push";
import { useNotifications } from "@syncline/client/push/react";
import { Pressable, Text, View } from "react-native";
import { styles } from "./styles";

export function News({ push }: { push: Push }) {
  const { notifications } = useNotifications(push);
  const unread = notifications.filter(({ read_at }) => read_at === undefined);
  return (
    <View>
      {unread.map(({ nid, title, body }) => (
        <Pressable key={nid} style={styles.news} onPress={() => void push.inbox.read(nid).catch(() => {})}>
          <Text style={styles.title}>{title}</Text>
          {body !== "" && <Text>{body}</Text>}
        </Pressable>
      ))}
    </View>
  );
}
