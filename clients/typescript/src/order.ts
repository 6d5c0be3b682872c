/** Which operations go next: pure functions. */

import type { PendingOp } from "./model.js";
import { entityKey } from "./model.js";
import type { Op } from "./protocol/client.gen.js";
import { utf8 } from "./sha256.js";

const RANK = { critical: 0, high: 1, normal: 2 } as const;

/** Whether two operations take effect together or not at all. */
export const joined = (one: PendingOp, other: PendingOp): boolean =>
  one.opId === other.opId || (one.group !== undefined && one.group === other.group);

/**
 * The queued operations in the order they are to be sent, each alone or with its group: the urgent first, but none
 * before an earlier one on the same entity. The members of a group were queued at once: nothing came between them.
 */
export function sendOrder(queue: readonly PendingOp[], resolve: (op: PendingOp) => string): PendingOp[][] {
  const units: PendingOp[][] = [];
  const last = new Map<string, PendingOp[]>();
  const before = new Map<PendingOp[], PendingOp[][]>();
  for (const op of queue) {
    if (op.state !== "queued") continue;
    let unit = units.at(-1);
    if (!unit || !joined(unit[0]!, op)) {
      units.push((unit = []));
      before.set(unit, []);
    }
    unit.push(op);
    const entity = entityKey(op.type, resolve(op));
    const earlier = last.get(entity);
    if (earlier) before.get(unit)!.push(earlier);
    last.set(entity, unit);
  }
  const rank = (unit: PendingOp[]) => Math.min(...unit.map(({ priority }) => RANK[priority]));
  const sorted = new Set<PendingOp[]>();
  for (const unit of [...units].sort((a, b) => rank(a) - rank(b))) {
    const found = new Set([unit]);
    // What is found on the way is gone through as well.
    for (const one of found) for (const earlier of before.get(one)!) if (!sorted.has(earlier)) found.add(earlier);
    for (const one of [...found].sort(([a], [b]) => a!.order - b!.order)) sorted.add(one);
  }
  return [...sorted];
}

/** What a request may hold. */
export interface BatchLimits {
  ops: number;
  bytes: number;
}

/**
 * The first batch of what is ready: nothing that waits for its time, and nothing behind it on the same entity. It keeps
 * to the limits, unless what has to stay together does not.
 */
export function nextBatch(
  sorted: readonly PendingOp[][],
  waits: (op: PendingOp) => boolean,
  limits: BatchLimits,
  resolve: (op: PendingOp) => string,
): PendingOp[] {
  const held = new Set<string>();
  const batch: PendingOp[] = [];
  let bytes = 0;
  for (const unit of sorted) {
    const keys = unit.map((op) => entityKey(op.type, resolve(op)));
    if (unit.some(waits) || keys.some((key) => held.has(key))) {
      for (const key of keys) held.add(key);
      continue;
    }
    // A character has at most three bytes in UTF-8.
    const size = unit.reduce((sum, op) => sum + 3 * wireText(op).length + 3, 0);
    if (batch.length > 0 && (batch.length + unit.length > limits.ops || bytes + size > limits.bytes)) break;
    batch.push(...unit);
    bytes += size;
  }
  return batch;
}

/** The operation of a batch that the hub would not take for its size, alone or with its group. */
export function tooLarge(batch: readonly PendingOp[], limits: BatchLimits & { opBytes: number }): PendingOp | undefined {
  const sizes = batch.map((op) => utf8(wireText(op)).length + 1);
  return batch.find((_, at) => sizes[at]! > limits.opBytes + 1) ?? (sizes.reduce((sum, size) => sum + size, 1) > limits.bytes ? batch[0] : undefined);
}

/** An operation as it goes over the wire: the same text every time. */
export function wireText(op: PendingOp): string {
  const { opId, kind, type, id, base, fields, was, editedAt, priority, group, conflict, choose, expectedVersion, notify, replaces } = op;
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
    replaces,
  };
  return JSON.stringify(wire);
}
