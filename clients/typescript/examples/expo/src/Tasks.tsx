/** The list: edits at once, on the device; what waits for the hub is marked; a conflict is its author's to decide. */

import { useConflicts, useMutation, useProject, useQuery, useSyncStatus } from "@syncline/client/react";
import { useState } from "react";
import { Button, FlatList, Pressable, Text, TextInput, View } from "react-native";
import { styles } from "./styles";
import { PROJECT, type Task } from "./sync";

export function Tasks() {
  const { data } = useQuery<Task>(PROJECT, "card");
  const edit = useMutation(PROJECT);
  const [title, setTitle] = useState("");
  const add = () => {
    if (title.trim() !== "") edit?.insert("card", { title: title.trim(), done: false, votes: 0 });
    setTitle("");
  };
  return (
    <View style={styles.list}>
      <State />
      <Conflicts />
      <View style={styles.row}>
        <TextInput style={styles.input} value={title} onChangeText={setTitle} onSubmitEditing={add} placeholder="What is to be done?" />
        <Button title="Add" onPress={add} />
      </View>
      <FlatList
        data={data}
        keyExtractor={({ id }) => id}
        renderItem={({ item: { id, fields, pending } }) => (
          <View style={[styles.row, pending > 0 && styles.pending]}>
            <Pressable onPress={() => edit?.update("card", id, { done: !fields.done })}>
              <Text style={styles.box}>{fields.done ? "☑" : "☐"}</Text>
            </Pressable>
            <TextInput
              key={fields.title}
              style={styles.input}
              defaultValue={fields.title}
              onEndEditing={({ nativeEvent: { text } }) => text !== fields.title && edit?.update("card", id, { title: text })}
            />
            {pending > 0 && <Text style={styles.soft}>waiting</Text>}
          </View>
        )}
      />
    </View>
  );
}

function State() {
  const { connection, pending, failed, problem } = useSyncStatus();
  const words = [connection, pending > 0 && `${pending} waiting`, failed > 0 && `${failed} failed`, problem?.message];
  return <Text style={styles.soft}>{words.filter(Boolean).join(" · ")}</Text>;
}

function Conflicts() {
  const project = useProject(PROJECT);
  const open = useConflicts(PROJECT).filter(({ state }) => state === "open");
  return open.map((conflict) => (
    <View key={conflict.id} style={styles.conflict}>
      <Text style={styles.title}>Both of you changed this. Which one stands?</Text>
      <Button title={`Mine: ${String(conflict.client["title"])}`} onPress={() => project?.resolve(conflict.id, { choose: "client" })} />
      <Button title={`Theirs: ${String(conflict.server["title"])}`} onPress={() => project?.resolve(conflict.id, { choose: "server" })} />
    </View>
  ));
}
