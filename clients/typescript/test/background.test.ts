/** Sync without a socket: beside one, twice at once, and within its time. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { syncLog, syncNow } from "../src/sync.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

const world = () => new World().start();

test("the background syncs over HTTP, within its deadline, and keeps a log", async () => {
  let w = await world();
  w.hub.write("task", "t1", { title: "one" });
  await w.project.insert("task", { title: "two" }, { id: "t2" }).local;
  w = await w.restart();
  const result = await syncNow(w.client);
  assert.deepEqual([result.pushed, result.pulled, result.left, result.complete], [1, 2, 0, true]);
  assert.deepEqual(await w.titles(), ["one", "two"]);
  w.hub.online = false;
  await w.project.insert("task", { title: "three" }, { id: "t3" }).local;
  await w.clock.advance(1);
  const failed = await syncNow(w.client);
  assert.deepEqual([failed.complete, failed.left], [false, 1]);
  assert.match(failed.error ?? "", /cannot be reached/);
  assert.deepEqual((await syncLog(w.client)).map(({ complete }) => complete), [false, true]);
});

test("syncs that overlap are one, and leave the outbox on its socket", async () => {
  const w = await world();
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  const both = [syncNow(w.client), syncNow(w.client)];
  assert.equal(both[0], both[1]);
  assert.equal((await both[0]!).pushed, 1);
  const again = syncNow(w.client);
  assert.notEqual(again, both[0]);
  await again;
  const posts = () => w.hub.requests.filter((path) => path.startsWith("POST")).length;
  assert.equal(posts(), 1);
  await w.online();
  await w.project.insert("task", { title: "two" }, { id: "t2" }).synced;
  assert.equal(posts(), 1);
  assert.equal(w.hub.heard.filter(({ type }) => type === "write").length, 1);
});

test("what is being sent over the socket is waited for, and what comes meanwhile goes over it again", async () => {
  const w = await (await world()).online();
  const kept: (() => void)[] = [];
  w.hub.instead = (frame, socket) => frame.type === "write" && kept.length === 0 && kept.push(() => w.hub.take(socket, frame)) > 0;
  const first = w.project.insert("task", { title: "one" }, { id: "t1" });
  await settle();
  const sync = syncNow(w.client);
  await settle();
  assert.ok(!w.hub.requests.some((path) => path.startsWith("POST")), "it is sent twice at once");
  kept[0]!();
  await first.synced;
  assert.equal((await sync).left, 0);
  w.hub.requests.length = 0;
  await w.project.insert("task", { title: "two" }, { id: "t2" }).synced;
  assert.deepEqual(w.hub.requests, []);
});

test("what the socket did not bring through is sent over HTTP", async () => {
  const w = await (await world()).online();
  w.hub.instead = (frame) => frame.type === "write";
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  const sync = syncNow(w.client);
  await settle();
  w.hub.cut();
  const { pushed, complete } = await sync;
  assert.deepEqual([pushed, complete], [1, true]);
});

test("an edit made while the time of a sync ends is sent over the socket at once", async () => {
  const w = new World();
  let answer!: () => void;
  const answered = new Promise<void>((resolve) => (answer = resolve));
  const fetch: typeof w.hub.fetch = async (url, init) => {
    const response = await w.hub.fetch(url, init);
    if (init.method === "POST") await answered;
    return response;
  };
  await w.start({ fetch });
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  const sync = syncNow(w.client, { deadlineMs: 1000 });
  await settle();
  await w.online();
  const second = w.project.insert("task", { title: "two" }, { id: "t2" });
  await second.local;
  await w.clock.advance(1000);
  answer();
  await sync;
  assert.equal((await second.synced).outcome, "applied");
});
