/** `@syncline/client/push/react`: the inbox in React and React Native. */

import { useEffect, useSyncExternalStore } from "react";
import type { InboxState } from "./inbox.js";
import type { Push } from "./push.js";

/** The latest notifications and how much is unread; read once more when the component appears. */
export function useNotifications({ inbox }: Push): InboxState {
  useEffect(() => void inbox.refresh(), [inbox]);
  return useSyncExternalStore(inbox.state.subscribe, inbox.state.get, inbox.state.get);
}

/** How much the user has not read. */
export function useUnread({ inbox }: Push): number {
  const unread = () => inbox.state.get().unread;
  return useSyncExternalStore(inbox.state.subscribe, unread, unread);
}
