/** Which operations go next: pure functions. */

import type { PendingOp } from "./model.js";
import { entityKey } from "./model.js";
import type { Op } from "./protocol/client.gen.js";

const RANK = { critical: 0, high: 1, normal: 2 } as const;

/**
 * Operations in the order they are to be sent: the urgent first, but none before an earlier one on
 * the same entity, and the members of a group next to each other.
 */
export function sendOrder(queue: readonly PendingOp[], resolve: (op: PendingOp) => string): PendingOp[] {
  const ops = [...queue].sort((a, b) => a.order - b.order);
  const before = new Map<PendingOp, PendingOp>();
  const last = new Map<string, PendingOp>();
  const groups = new Map<string, PendingOp[]>();
  for (const op of ops) {
    const entity = entityKey(op.type, resolve(op));
    const earlier = last.get(entity);
    if (earlier) before.set(op, earlier);
    last.set(entity, op);
    if (op.group !== undefined) groups.set(op.group, [...(groups.get(op.group) ?? []), op]);
  }
  const placed = new Set<PendingOp>();
  const sorted: PendingOp[] = [];
  const place = (op: PendingOp) => {
    if (placed.has(op)) return;
    const members = op.group === undefined ? [op] : groups.get(op.group)!;
    for (const member of members) placed.add(member);
    for (const member of members) {
      const chain: PendingOp[] = [];
      for (let earlier = before.get(member); earlier; earlier = before.get(earlier)) chain.push(earlier);
      for (const earlier of chain.reverse()) place(earlier);
    }
    sorted.push(...members);
  };
  for (const op of [...ops].sort((a, b) => RANK[a.priority] - RANK[b.priority] || a.order - b.order)) place(op);
  return sorted;
}

/** What a request may hold. */
export interface BatchLimits {
  ops: number;
  bytes: number;
}

/** The first batch of what is ready: nothing that waits for its time, and nothing behind it on the same entity. */
export function nextBatch(
  sorted: readonly PendingOp[],
  waits: (op: PendingOp) => boolean,
  limits: BatchLimits,
  resolve: (op: PendingOp) => string,
): PendingOp[] {
  const held = new Set<string>();
  const heldGroups = new Set(sorted.filter((op) => op.group !== undefined && waits(op)).map((op) => op.group));
  const batch: PendingOp[] = [];
  let bytes = 0;
  for (let at = 0; at < sorted.length; ) {
    const { group } = sorted[at]!;
    let end = at + 1;
    while (group !== undefined && end < sorted.length && sorted[end]!.group === group) end++;
    const unit = sorted.slice(at, end);
    at = end;
    const keys = unit.map((op) => entityKey(op.type, resolve(op)));
    if (unit.some(waits) || heldGroups.has(group) || keys.some((key) => held.has(key))) {
      for (const key of keys) held.add(key);
      continue;
    }
    const size = unit.reduce((sum, op) => sum + wireText(op).length + 1, 0);
    if (batch.length > 0 && (batch.length + unit.length > limits.ops || bytes + 3 * size > limits.bytes)) break;
    batch.push(...unit);
    // A character has at most three bytes in UTF-8.
    bytes += 3 * size;
  }
  return batch;
}

/** An operation as it goes over the wire: the same text every time. */
export function wireText(op: PendingOp): string {
  const { opId, kind, type, id, base, fields, was, editedAt, priority, group, conflict, choose, expectedVersion, notify } = op;
  // In this order for ever, and without what is not there.
  const wire: { [Name in keyof Op]: Op[Name] | undefined } = {
    op_id: opId,
    kind,
    type,
    id,
    base,
    fields,
    was,
    edited_at: editedAt,
    priority: priority === "normal" ? undefined : priority,
    group,
    conflict,
    choose,
    expected_version: expectedVersion,
    notify,
  };
  return JSON.stringify(wire);
}
