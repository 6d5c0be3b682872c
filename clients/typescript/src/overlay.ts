/** What the user sees: pure functions from the hub's rows and the pending operations. */

import type { Entity, Fields, Incoming, PendingOp, Row } from "./model.js";

/** The row after a change; the same row if it is older news. */
export function apply(row: Row | undefined, change: Incoming, at: number, gen: number): Row {
  if (row && row.version >= change.version) return row;
  const { type, id, version } = change;
  if (change.kind === "delete") return { type, id, version, deleted: true, fields: {}, at, gen };
  const whole = change.kind !== "update" || !row || row.deleted;
  return { type, id, version, fields: whole ? change.fields : { ...row.fields, ...change.fields }, at, gen };
}

/** Whether a change can be applied to this row: an `update` needs the version before it. */
export function fits(row: Row | undefined, change: Incoming): boolean {
  if (change.kind !== "update" || (row && row.version >= change.version)) return true;
  return row !== undefined && row.version === change.prev;
}

/** The entity with its pending operations on top, in their order. */
export function overlay(row: Row | undefined, id: string, ops: readonly PendingOp[]): Entity | undefined {
  let fields: Fields | undefined = row && !row.deleted ? row.fields : undefined;
  let pending = 0;
  for (const op of ops) {
    if (op.state === "failed" || inRow(row, op)) continue;
    pending++;
    if (op.kind === "delete") fields = undefined;
    else if (op.kind === "create") fields = { ...op.fields, ...op.verdict?.fields };
    // An update of what is gone shows nothing, unless the hub brings it back.
    else if (fields) fields = { ...fields, ...op.fields, ...op.verdict?.fields };
  }
  if (!fields) return undefined;
  const { type } = (row ?? ops[0])!;
  return { type, id, version: row && !row.deleted ? row.version : 0, fields, pending };
}

/** Whether the row already shows what became of the operation. */
export function inRow(row: Row | undefined, { state, verdict }: PendingOp): boolean {
  return state === "settled" && row !== undefined && row.version >= (verdict?.version ?? Infinity);
}

/**
 * The row with what became of an operation, where no change will come to tell. It keeps its version: what others did
 * since is not in it, so that all the hub says of the entity later is news.
 */
export function fold(row: Row | undefined, op: PendingOp, id: string, at: number, gen: number): Row | undefined {
  const fields = overlay(row, id, [op])?.fields;
  if (!row && !fields) return undefined;
  const { type, verdict } = op;
  const { deleted: _, ...kept } = row ?? { type, id, version: (verdict?.version ?? 1) - 1, at, gen, alone: true };
  return fields ? { ...kept, fields } : { ...kept, deleted: true, fields: {} };
}
