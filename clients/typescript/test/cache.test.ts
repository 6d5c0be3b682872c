/** What is read by itself grows old and is let go of: by age, by bytes, and never from under a pending edit. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Cache, openCache } from "../src/cache.js";
import { Lru } from "../src/lru.js";
import { cleanUp } from "../src/sync.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

interface Limits {
  ttl?: number;
  stale?: number;
  max_bytes?: number;
}

/** A client that reads `count` notes one by one, a second apart, without following the project. */
async function readers(count: number, limits: Limits, text = "x"): Promise<{ w: World; cache: Cache }> {
  const w = await new World().start();
  w.leave();
  const policy = { type: "note", strategy: "CACHE_FIRST", ttl: 60, stale: 60, max_bytes: 1_000_000, ...limits };
  await w.storage.disk.commit([{ table: "meta", key: "cache-policies", value: [policy] }]);
  const cache = await openCache(w.client);
  for (let at = 0; at < count; at++) {
    w.hub.write("note", `n${at}`, { text });
    await cache.read(w.project, "note", `n${at}`);
    await w.clock.advance(1000);
  }
  return { w, cache };
}

const kept = async (w: World) => (await w.project.replica.rows()).map(({ id }) => id);

test("what is older than its policy allows goes, and nothing younger", async () => {
  const { w, cache } = await readers(3, {});
  await w.clock.advance(118_500);
  assert.equal(await cache.evict(w.project), 2);
  assert.deepEqual(await kept(w), ["n2"]);
  await w.clock.advance(2000);
  assert.equal(await cache.evict(w.project), 1);
  assert.deepEqual(await kept(w), []);
});

test("of what is too much, the oldest goes; bytes are counted, not characters", async () => {
  const bytes = async (w: World) => Buffer.byteLength(JSON.stringify((await w.project.replica.rows())[0]));
  const text = "é".repeat(500);
  const one = await bytes((await readers(1, {}, text)).w);
  assert.ok(one > 1000);
  const { w, cache } = await readers(5, { max_bytes: 3 * one }, text);
  assert.equal(await cache.evict(w.project), 2);
  assert.deepEqual(await kept(w), ["n2", "n3", "n4"]);
  // Read from the hub again, it is the youngest.
  await cache.read(w.project, "note", "n2", { strategy: "NETWORK_FIRST" });
  w.hub.write("note", "n5", { text });
  await cache.read(w.project, "note", "n5");
  assert.equal(await cache.evict(w.project), 1);
  assert.deepEqual(await kept(w), ["n2", "n4", "n5"]);
});

test("rows under pending edits stay whatever their age and size, and so does what the project's cursor covers", async () => {
  const { w, cache } = await readers(3, { max_bytes: 1 });
  await w.project.update("note", "n0", { text: "mine" }).local;
  await w.clock.advance(100 * 86_400_000);
  assert.equal(await cache.evict(w.project), 2);
  assert.deepEqual(await kept(w), ["n0"]);
  assert.equal(await cache.evict(w.project), 0);
  assert.equal((await w.project.get("note", "n0"))?.fields["text"], "mine");
  w.hub.instead = (frame) => frame.type === "write";
  w.project.subscribe();
  await w.online();
  assert.equal(w.project.state.get(), "live");
  assert.equal((await kept(w)).length, 3);
  await w.clock.advance(1000);
  assert.equal(await cache.evict(w.project), 0);
});

test("a clean-up lets go of what the cache policies give up", async () => {
  const { w } = await readers(3, {});
  await w.clock.advance(300_000);
  assert.deepEqual(await cleanUp(w.client), { rows: 3, projects: 0, records: 0 });
});

test("a clean-up lets go of what another one left under an edit, once that is decided", async () => {
  const w = await (await new World().start()).online();
  w.hub.write("note", "n1", { text: "x" });
  await settle();
  w.leave();
  w.client.disconnect();
  await w.project.update("note", "n1", { text: "mine" }).local;
  await w.clock.advance(40 * 86_400_000);
  assert.deepEqual([(await cleanUp(w.client)).projects, await kept(w)], [1, ["n1"]]);
  assert.equal((await w.project.replica.rows())[0]!.gen, 0, "it is of no copy: the next one does not take it for its own");
  w.hub.decide = () => ({ outcome: "rejected", code: "forbidden" });
  await w.online();
  await w.project.discard(w.project.pending()[0]!.opId);
  assert.deepEqual([(await cleanUp(w.client)).rows, await kept(w)], [1, []]);
});

test("what is followed stays, with its project or alone, whatever its age", async () => {
  const { w } = await readers(2, {});
  const leave = w.project.follow("note", "n0");
  await w.clock.advance(300_000);
  assert.deepEqual([(await cleanUp(w.client)).rows, await kept(w)], [1, ["n0"]]);
  // The project was looked at once, and not since.
  await w.project.stream.pull();
  assert.deepEqual(await kept(w), ["n0", "n1"]);
  await w.clock.advance(40 * 86_400_000);
  assert.deepEqual([(await cleanUp(w.client)).projects, await kept(w)], [1, ["n0"]]);
  leave();
  assert.deepEqual([(await cleanUp(w.client)).rows, await kept(w)], [1, []]);
});

test("what the project's copy has is read offline whatever its age", async () => {
  const { w, cache } = await readers(1, {});
  await w.project.stream.pull();
  await w.clock.advance(300_000);
  const asked = async (strategy: "CACHE_FIRST" | "STALE_WHILE_REVALIDATE" | "NETWORK_FIRST", id: string) => {
    w.hub.requests.length = 0;
    const read = await cache.read(w.project, "note", id, { strategy });
    await settle();
    return [read?.fields["text"], w.hub.requests.length];
  };
  w.hub.online = false;
  for (const strategy of ["CACHE_FIRST", "NETWORK_FIRST", "STALE_WHILE_REVALIDATE"] as const) {
    assert.equal((await asked(strategy, "n0"))[0], "x", strategy);
    await assert.rejects(asked(strategy, "n9"), /cannot be reached/);
  }
  // Where the hub can be reached, what is old is asked for.
  w.hub.online = true;
  assert.deepEqual(await asked("CACHE_FIRST", "n0"), ["x", 1]);
  await w.clock.advance(300_000);
  w.hub.refuse = () => "forbidden";
  await assert.rejects(asked("NETWORK_FIRST", "n0"), { code: "forbidden" });
});

test("each strategy asks whom it should", async () => {
  const { w, cache } = await readers(1, {});
  const asked = async (strategy: "CACHE_FIRST" | "STALE_WHILE_REVALIDATE" | "NETWORK_FIRST") => {
    w.hub.requests.length = 0;
    const read = await cache.read(w.project, "note", "n0", { strategy });
    await settle();
    return [read?.fields["text"], w.hub.requests.length];
  };
  w.hub.write("note", "n0", { text: "y" });
  assert.deepEqual(await asked("CACHE_FIRST"), ["x", 0]);
  await w.clock.advance(60_000);
  assert.deepEqual(await asked("STALE_WHILE_REVALIDATE"), ["x", 1]);
  assert.deepEqual(await asked("STALE_WHILE_REVALIDATE"), ["y", 0]);
  assert.deepEqual(await asked("NETWORK_FIRST"), ["y", 1]);
  w.hub.online = false;
  assert.deepEqual(await asked("NETWORK_FIRST"), ["y", 0]);
  await w.clock.advance(200_000);
  await assert.rejects(asked("CACHE_FIRST"), /cannot be reached/);
  assert.deepEqual(cache.stats().reads, { fresh: 2, stale: 2, misses: 1, fetched: 3 });
});

test("memory is bounded by bytes, whatever the number of rows, and counts hits, misses and evictions", async () => {
  const w = await new World().start({ memoryBytes: 20_000 });
  for (let at = 0; at < 50; at++) w.hub.write("note", `n${at}`, { text: "x".repeat(400) });
  await w.online();
  const cache = await openCache(w.client);
  const { memory } = cache.stats();
  assert.ok(memory.bytes <= 20_000 && memory.bytes > 15_000, String(memory.bytes));
  assert.equal(memory.evictions, 50 - memory.entries);
  // Only memory forgot: the disk has them all.
  assert.equal((await w.project.query("note").ready()).length, 50);
  assert.equal((await w.project.get("note", "n0"))?.fields["text"], "x".repeat(400));
  assert.equal(cache.stats().memory.misses, memory.misses + 1);
});

test("what was used last is forgotten last; what was put anew counts once", () => {
  const lru = new Lru<string>(1200);
  for (const name of "abc") lru.set(name, "x".repeat(100));
  for (let again = 0; again < 10; again++) lru.set("c", "x".repeat(100));
  assert.deepEqual([lru.stats().entries, lru.stats().evictions], [3, 0]);
  lru.get("a");
  lru.set("d", "x".repeat(100));
  lru.set("e", "x".repeat(100));
  assert.deepEqual([..."abcde"].filter((name) => lru.get(name) !== undefined), ["a", "c", "d", "e"].slice(-lru.stats().entries));
});

test("what the project's copy covers does not grow old, though it was read alone as well", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  await (await w.start()).online();
  w.leave();
  const alone = async (id: string) => (await w.project.replica.transact((change) => change.row("task", id)))?.alone;
  await w.project.fetch("task", "t1");
  assert.equal(await alone("t1"), undefined, "no later page would bring it again");
  w.hub.write("task", "t2", { title: "two" });
  await w.project.fetch("task", "t2");
  assert.equal(await alone("t2"), true, "it comes again with what is behind the cursor");
});
