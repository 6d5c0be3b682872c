/** Emptying a store, before another user gets it. */

import { type Put, type Storage, type Table, TABLES } from "./storage.js";

/** What of a store is to go. */
export interface ClearOptions {
  /** Keeps the edits that were not sent. The store stays its user's, who sends them when they come back. */
  keepPending?: boolean;
}

/** What unsent edits need: their local ids, and as whom and from which installation they are to be sent. */
const PENDING: readonly Table[] = ["ops", "ids", "meta"];

/** Empties a store that no client uses: close the client, and open the store again if need be. */
export async function clear(storage: Storage, { keepPending = false }: ClearOptions = {}): Promise<void> {
  const puts: Put[] = [];
  for (const table of TABLES) {
    if (keepPending && PENDING.includes(table)) continue;
    for (const [key] of await storage.list(table, "")) puts.push({ table, key });
  }
  await storage.commit(puts);
}
