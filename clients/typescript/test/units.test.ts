/** The pure parts: hashes, waits, orders, tokens' ends, the memory cache, and the documented frames. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { afterClose, CONNECT, wait } from "../src/backoff.js";
import { createClient } from "../src/client.js";
import { Lru } from "../src/lru.js";
import type { PendingOp } from "../src/model.js";
import { nextBatch, sendOrder, wireText } from "../src/order.js";
import { sha256 } from "../src/sha256.js";
import { uuid } from "../src/uuid.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

test("the digest is the standard's, for every length around a block", () => {
  for (let length = 0; length < 200; length++) {
    const text = "é€a😀".repeat(length).slice(0, length * 2);
    assert.equal(sha256(text), createHash("sha256").update(text).digest("hex"));
  }
});

test("waits are drawn from all of the range below the ceiling", () => {
  assert.equal(wait(CONNECT, 0, 0), 100);
  assert.equal(wait(CONNECT, 3, 0.5), 100 + 4000);
  assert.equal(wait(CONNECT, 99, 0.999999), 100 + 30_000);
  assert.deepEqual([4000, 4150, 4299, 4450, 1006].map(afterClose), ["reconnect", "refresh", "later", "stop", "reconnect"]);
});

test("identifiers sort by time", () => {
  const clock = new TestClock();
  const first = uuid(clock);
  assert.match(first, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const later = uuid({ ...clock, now: () => clock.now() + 1, random: () => 0, after: () => () => {} });
  assert.ok(later > first);
});

const op = (order: number, id: string, more: Partial<PendingOp> = {}): PendingOp => ({
  opId: `o${order}`,
  project: "p",
  order,
  kind: "update",
  type: "task",
  id,
  base: 0,
  editedAt: 0,
  priority: "normal",
  state: "queued",
  attempts: 0,
  ...more,
});
const ids = (ops: (PendingOp | PendingOp[])[]) => ops.flat().map(({ opId }) => opId).join(" ");
const own = ({ id }: PendingOp) => id;
const ready = () => false;

test("the urgent go first, but never before an earlier edit of the same entity", () => {
  const queue = [op(1, "a"), op(2, "b"), op(3, "b", { priority: "critical" }), op(4, "c", { priority: "high" })];
  assert.equal(ids(sendOrder(queue, own)), "o2 o3 o4 o1");
});

test("a group stays together, and keeps its place among the edits of its entities", () => {
  const queue = [op(1, "a"), op(2, "b", { group: "g" }), op(3, "c", { group: "g", priority: "critical" }), op(4, "b", { priority: "high" })];
  assert.equal(ids(sendOrder(queue, own)), "o2 o3 o4 o1");
  assert.equal(ids(nextBatch(sendOrder(queue, own), ready, { ops: 1, bytes: 1e6 }, own)), "o2 o3");
  const same = [op(1, "a", { group: "g" }), op(2, "a", { group: "g" }), op(3, "a"), op(4, "a", { group: "h" }), op(5, "a", { group: "h" })];
  assert.equal(ids(sendOrder(same, own)), "o1 o2 o3 o4 o5");
  assert.equal(ids(nextBatch(sendOrder(same, own), ({ order }) => order === 4, { ops: 10, bytes: 1e6 }, own)), "o1 o2 o3");
});

test("ten thousand edits of one entity are put in order, and the last one's urgency counts for all", () => {
  const queue = Array.from({ length: 10_000 }, (_, at) => op(at + 2, "a", { priority: at === 9999 ? "critical" : "normal" }));
  const sorted = sendOrder([op(1, "b"), ...queue], own).flat();
  assert.deepEqual([sorted[0]?.order, sorted.at(-2)?.order, sorted.at(-1)?.order], [2, 10_001, 1]);
});

test("what waits for its time holds back its entity, and nobody else", () => {
  const queue = [op(1, "a"), op(2, "a"), op(3, "b")];
  assert.equal(ids(nextBatch(sendOrder(queue, own), ({ order }) => order === 1, { ops: 10, bytes: 1e6 }, own)), "o3");
  assert.equal(ids(nextBatch(sendOrder(queue, own), ready, { ops: 10, bytes: 1e6 }, own)), "o1 o2 o3");
  const bytes = 3 * (wireText(op(1, "a")).length + 1);
  assert.equal(ids(nextBatch(sendOrder(queue, own), ready, { ops: 10, bytes: bytes * 2 }, own)), "o1 o2");
});

test("the memory cache counts bytes and forgets what was not used for longest", () => {
  const cache = new Lru<string>(1000);
  for (const name of ["a", "b", "c"]) cache.set(name, "x".repeat(100));
  assert.ok(cache.get("a"));
  cache.set("d", "x".repeat(100));
  assert.equal(cache.get("b"), undefined);
  assert.ok(cache.get("a"));
  cache.set("huge", "x".repeat(1000));
  const { entries, evictions, bytes, hits, misses } = cache.stats();
  assert.deepEqual([entries, evictions, hits, misses], [3, 1, 2, 1]);
  assert.ok(bytes <= 1000);
});

test("every frame that docs/PROTOCOL.md shows is taken", async () => {
  const text = readFileSync("../../docs/PROTOCOL.md", "utf8");
  const said = text.slice(text.indexOf("## What the hub says"), text.indexOf("## Cursors and resuming"));
  const frames = [...said.matchAll(/```json\n(.*)\n```/g)].map(([, frame]) => JSON.parse(frame!) as { type: string });
  assert.ok(frames.length >= 18);
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  (await client.project("site-7")).subscribe();
  await client.connect();
  const seen: string[] = [];
  client.parts.connection.events.on("frame", ({ type }) => seen.push(type));
  for (const frame of frames) hub.tell({ ...frame, id: undefined } as never);
  await settle();
  assert.deepEqual(seen, frames.map(({ type }) => type));
  const project = await client.project("site-7");
  assert.equal(project.conflicts()[0]?.client["approval"], "ana");
  await client.close();
});
