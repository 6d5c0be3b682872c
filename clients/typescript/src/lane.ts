/** The hub's failed lane, as far as it is about operations of this device. */

import type { Discarded, PendingOp } from "./model.js";
import type { Project } from "./project.js";

/** A hub keeps verdicts for longer than this. What is sent again after that is decided anew, which nobody asked for. */
const KEPT_MS = 90 * 86_400_000;
/** Discards in one request, each of an operation and perhaps of the one it replaced. */
const AT_ONCE = 50;

/**
 * What became of rejected operations while nobody here heard of it, because somebody tried them again: asks for the
 * verdicts of now of what does not wait in the lane, or for another reason than is known here.
 */
export async function askRejected({ name, outbox, replica, http }: Project): Promise<void> {
  const since = replica.clock.now() - KEPT_MS;
  const rejected = outbox.failed.filter(({ verdict, editedAt }) => verdict && editedAt > since);
  if (rejected.length === 0) return;
  // Its first page: what is on a later one is asked for in vain, which changes nothing.
  const { failed } = await http.get<{ failed: { op_id: string; code: string }[] }>(`/v1/sync/failed?project=${name}`);
  const waiting = new Set(failed.map(({ op_id, code }) => op_id + code));
  await outbox.recall(rejected.filter(({ opId, verdict }) => !waiting.has(`${opId}${verdict?.code}`)));
}

/** Takes out of the lane what its user has discarded: nobody is to try it again. */
export async function clearDiscarded({ name, outbox, replica: { store }, http }: Project): Promise<void> {
  // What was being sent when it was discarded may come into the lane only now.
  await outbox.flush();
  const ops = await store.list<PendingOp | Discarded>("ops", name);
  const discarded = ops.filter(([, op]) => "discarded" in op) as [string, Discarded][];
  while (discarded.length > 0) {
    const some = discarded.splice(0, AT_ONCE);
    const op_ids = some.flatMap(([, op]) => op.discarded);
    await http.post("/v1/sync/failed/clear", JSON.stringify({ project: name, op_ids }));
    await store.commit(some.map(([key]) => ({ table: "ops", key })));
  }
}
