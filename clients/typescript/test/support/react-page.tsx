/** What the React test mounts into a page: every hook once, shown as JSON. */

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { createClient, type Project } from "../../src/index.js";
import { openPush, type Push } from "../../src/push/index.js";
import { useNotifications, useUnread } from "../../src/push/react.js";
import { SynclineProvider, useConflicts, useEntity, useMutation, usePendingOps, usePresence, useQuery, useSyncStatus } from "../../src/react.js";

function Board({ push }: { push: Push }) {
  const inbox = useNotifications(push);
  const status = useSyncStatus();
  const cards = useQuery<{ title: string }>("demo", "card");
  const one = useEntity<{ title: string }>("demo", "card", "react-1");
  const edit = useMutation("demo");
  const presence = usePresence<{ at: number }>("demo", "react");
  const pending = usePendingOps("demo");
  const conflicts = useConflicts("demo");
  const shown = {
    connection: status.connection,
    titles: cards.data.map(({ fields }) => fields.title),
    one: one.data?.fields.title,
    here: [...presence.members.keys()],
    at: presence.members.get("cy")?.at,
    pending: pending.filter(({ state }) => state === "queued").length,
    conflicts: conflicts.filter(({ state }) => state === "open").length,
    news: inbox.notifications.map(({ title }) => title),
  };
  return (
    <>
      <pre id="shown">{JSON.stringify(shown)}</pre>
      <Unread push={push} />
      <button id="insert" onClick={() => edit?.insert("card", { title: "from React" }, { id: "react-1" })} />
      <button id="update" onClick={() => edit?.update("card", "react-1", { title: "changed" })} />
      <button id="delete" onClick={() => edit?.delete("card", "react-1")} />
      <button id="move" onClick={() => presence.setState({ at: 7 })} />
      <button id="read" onClick={() => void push.inbox.readAll()} />
    </>
  );
}

/** A component of its own: it hears of changes by itself. */
function Unread({ push }: { push: Push }) {
  return <b id="unread">{useUnread(push)}</b>;
}

const getToken = async () => {
  const response = await fetch("/demo/token", { method: "POST", body: JSON.stringify({ user: "cy" }) });
  return ((await response.json()) as { token: string }).token;
};

void createClient({ url: location.origin, getToken, user: "cy" }).then(async (client) => {
  const push = await openPush(client, { schemes: [] });
  const element = document.createElement("div");
  document.body.replaceChildren(element);
  const root = createRoot(element);
  Object.assign(globalThis, { client, project: () => client.project("demo") as Promise<Project>, unmount: () => root.unmount() });
  root.render(
    <StrictMode>
      <SynclineProvider client={client}>
        <Board push={push} />
      </SynclineProvider>
    </StrictMode>,
  );
});
