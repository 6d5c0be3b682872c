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

test("a sync whose result cannot be logged is a sync all the same", async () => {
  const w = await world();
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  const heard: unknown[] = [];
  w.client.on("synced", ({ complete }) => heard.push(complete));
  w.storage.fault = (puts) => (puts.some(({ table }) => table === "log") ? new Error("disk") : undefined);
  const { pushed, complete } = await syncNow(w.client);
  assert.deepEqual([pushed, complete, heard], [1, true, [true]]);
  assert.match(w.client.status.get().storage!.message, /disk/);
  assert.deepEqual(await syncLog(w.client), []);
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

/** A hub that does not answer over HTTP, until `answers`. */
class Silent extends World {
  answers = false;

  override start(): Promise<this> {
    return super.start({
      fetch: (url, { signal, ...init }) => {
        if (this.answers) return this.hub.fetch(url, init);
        return new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new Error("aborted"))));
      },
    });
  }
}

test("a sync that is not answered ends at its deadline and says so; the next one goes on", async () => {
  const w = await new Silent().start();
  w.hub.write("task", "t1", { title: "one" });
  await w.project.insert("task", { title: "two" }, { id: "t2" }).local;
  for (const deadlineMs of [5000, 7000]) {
    let result: unknown;
    void syncNow(w.client, { deadlineMs }).then((is) => (result = is));
    const at = w.clock.now();
    await w.clock.advance(deadlineMs - 1);
    assert.equal(result, undefined);
    await w.clock.advance(1);
    const error = "the time was over before all was done";
    assert.deepEqual(result, { at, durationMs: deadlineMs, pushed: 0, pulled: 0, left: 1, complete: false, error });
  }
  assert.equal(w.project.pending()[0]?.state, "queued");
  w.answers = true;
  const { pushed, pulled, left, complete } = await syncNow(w.client);
  assert.deepEqual([pushed, pulled, left, complete], [1, 2, 0, true]);
});

test("a sync that waits for something else than the hub ends at its deadline, too", async () => {
  const w = new World();
  await w.start({ getToken: () => new Promise<string>(() => {}) });
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  let ended = false;
  const sync = syncNow(w.client, { deadlineMs: 5000 }).then((result) => ((ended = true), result));
  await w.clock.advance(5000);
  assert.ok(ended, "it waits for a token for ever");
  const { left, complete } = await sync;
  assert.deepEqual([left, complete], [1, false]);
});

test("a copy that is larger than the time goes on where it was", async () => {
  const w = new World();
  for (let at = 0; at < 5; at++) w.hub.write("task", `t${at}`, { title: `t${at}` });
  w.hub.pageRows = 1;
  // Each page takes a second.
  const fetch: typeof w.hub.fetch = (url, init) => new Promise((resolve) => w.clock.after(1000, () => resolve(w.hub.fetch(url, init))));
  await w.start({ fetch });
  await w.project.insert("note", {}, { id: "n1" }).local;
  const first = syncNow(w.client, { deadlineMs: 3500 });
  await w.clock.advance(3500);
  assert.deepEqual([(await first).pushed, (await first).complete], [1, false]);
  const { pulled } = await first;
  assert.ok(pulled < 6, `${pulled} came in time`);
  const { length } = await w.project.replica.rows();
  assert.ok(length > 0 && length < 6, `${length} rows are here`);
  w.hub.requests.length = 0;
  const second = syncNow(w.client, { deadlineMs: 60_000 });
  await w.clock.advance(60_000);
  assert.deepEqual([(await second).complete, (await w.project.replica.rows()).length], [true, 6]);
  assert.ok(!w.hub.requests.some((path) => path.includes("since=0&") || path.endsWith("since=0")), w.hub.requests.join("\n"));
});

for (const [status, text] of [[404, "<h1>default backend</h1>"], [403, '{"code":403,"reason":"portal"}'], [408, ""], [502, "null"]] as const) {
  test(`what ${status} says that is not the hub's word costs no edit`, async () => {
    const w = new World();
    let away = true;
    const page = { ok: false, status, headers: { get: () => null }, text: async () => text };
    await w.start({ fetch: async (url, init) => (away ? page : w.hub.fetch(url, init)) });
    for (const id of ["t1", "t2"]) await w.project.insert("task", {}, { id }).local;
    const { left, complete } = await syncNow(w.client);
    assert.deepEqual([left, complete], [2, false]);
    assert.deepEqual(w.project.pending().map(({ state, problem }) => [state, problem?.code]), [["queued", "unavailable"], ["queued", "unavailable"]]);
    away = false;
    await w.clock.advance(60_000);
    assert.deepEqual([(await syncNow(w.client)).pushed, w.hub.head], [2, 2]);
  });
}

test("what failed in a project whose access was lost leaves the sync whole, of that project and of others", async () => {
  const w = await world();
  await w.project.stream.pull();
  w.hub.write("task", "t1", { title: "one" });
  const out = await w.client.project("out");
  await out.insert("task", { title: "two" }, { id: "t2" }).local;
  await out.stream.pull();
  w.hub.decide = (op) => (op.id === "t2" ? { outcome: "rejected", code: "forbidden" } : undefined);
  w.hub.refuse = (what) => (what === "/v1/projects/out/changes" ? "forbidden" : undefined);
  for (const asked of [1, 0]) {
    w.hub.requests.length = 0;
    const { pushed, left, complete, error } = await syncNow(w.client);
    assert.deepEqual([pushed, left, complete, error], [asked, 0, true, undefined]);
    assert.equal(w.hub.requests.filter((path) => path.includes("/out/changes")).length, asked);
    await w.clock.advance(1);
  }
  assert.deepEqual([out.pending()[0]?.state, await out.replica.rows()], ["failed", []]);
  assert.deepEqual(await w.titles(), ["one"]);
});

test("the copy of a project whose access was lost goes, whatever was discarded in it", async () => {
  const w = await world();
  w.hub.write("task", "t1", { title: "one" });
  await w.project.stream.pull();
  w.hub.decide = () => ({ outcome: "rejected", code: "invalid" });
  const edit = w.project.insert("task", { title: "two" });
  await edit.local;
  await syncNow(w.client);
  w.hub.refuse = () => "forbidden";
  await w.project.discard(edit.opId);
  const { error } = await syncNow(w.client);
  assert.deepEqual([error, await w.project.replica.rows()], [undefined, []]);
});

test("a batch that is too large for a proxy on the way goes in parts", async () => {
  const w = new World();
  const page = { ok: false, status: 413, headers: { get: () => null }, text: async () => "<h1>Request Entity Too Large</h1>" };
  await w.start({ fetch: async (url, init) => ((init.body?.match(/"op_id"/g)?.length ?? 0) > 1 ? page : w.hub.fetch(url, init)) });
  for (const id of ["t1", "t2", "t3"]) await w.project.insert("task", {}, { id }).local;
  const { pushed, left, complete } = await syncNow(w.client);
  assert.deepEqual([pushed, left, complete], [3, 0, true]);
});

test("a project that was edited without being followed is sent to, not downloaded", async () => {
  const w = await world();
  w.leave();
  w.hub.write("task", "t1", { title: "one" });
  await w.project.insert("task", { title: "two" }, { id: "t2" }).local;
  const { pushed, pulled, complete } = await syncNow(w.client);
  assert.deepEqual([pushed, pulled, complete], [1, 0, true]);
  assert.ok(!w.hub.requests.some((path) => path.includes("/changes")), w.hub.requests.join("\n"));
});
