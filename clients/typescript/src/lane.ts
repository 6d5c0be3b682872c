/** What became of rejected operations while nobody here heard of it: somebody may have tried them again. */

import type { Http } from "./http.js";
import type { Outbox } from "./outbox.js";

/** A hub keeps verdicts for longer than this. What is sent again after that is decided anew, which nobody asked for. */
const KEPT_MS = 90 * 86_400_000;

/** Asks for the verdicts of now of what does not wait in the hub's lane, or for another reason than is known here. */
export async function askRejected(project: string, outbox: Outbox, http: Http, now: number): Promise<void> {
  const rejected = outbox.failed.filter(({ verdict, editedAt }) => verdict && editedAt > now - KEPT_MS);
  if (rejected.length === 0) return;
  // Its first page: what is on a later one is asked for in vain, which changes nothing.
  const { failed } = await http.get<{ failed: { op_id: string; code: string }[] }>(`/v1/sync/failed?project=${project}`);
  const waiting = new Set(failed.map(({ op_id, code }) => op_id + code));
  await outbox.recall(rejected.filter(({ opId, verdict }) => !waiting.has(`${opId}${verdict?.code}`)));
}
