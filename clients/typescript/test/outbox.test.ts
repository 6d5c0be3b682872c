/** What waits for the hub: answered late or not at all, decided from elsewhere, and held back for its time. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClientFrame } from "../src/protocol/client.gen.js";
import { settle } from "./support/clock.js";
import type { FakeSocket } from "./support/fake-hub.js";
import { World } from "./support/world.js";

const world = () => new World().start();

/** Keeps the first frames of a type from the hub; they can be put to it later. */
function swallow(w: World, type: ClientFrame["type"], count = 1): [FakeSocket, ClientFrame][] {
  const kept: [FakeSocket, ClientFrame][] = [];
  w.hub.instead = (frame, socket) => frame.type === type && kept.length < count && kept.push([socket, frame]) > 0;
  return kept;
}

test("a request that is not answered in time is sent again, on a connection that is well", async () => {
  const w = await (await world()).online();
  const kept = swallow(w, "write");
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await w.clock.advance(29_000);
  assert.deepEqual([kept.length, w.project.pending().length], [1, 1]);
  await w.clock.advance(5000);
  assert.equal(w.project.pending().length, 0);
  assert.equal((await edit.synced).outcome, "applied");
  assert.equal(w.hub.heard.filter(({ type }) => type === "connect").length, 1);
});

test("an answer that comes after its time is taken all the same", async () => {
  const w = await (await world()).online();
  const kept = swallow(w, "write");
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await w.clock.advance(30_000);
  w.hub.take(...kept[0]!);
  await settle();
  assert.equal(w.project.pending().length, 0);
  assert.equal((await edit.synced).outcome, "applied");
  await w.clock.advance(60_000);
  assert.equal(w.hub.heard.filter(({ type }) => type === "write").length, 2, "the frame that was kept is heard twice");
});

test("a room whose joining is not answered in time is joined again", async () => {
  const w = await world();
  const kept = swallow(w, "subscribe");
  await w.online();
  await w.clock.advance(29_000);
  assert.deepEqual([kept.length, w.project.state.get()], [1, "cold"]);
  await w.clock.advance(5000);
  assert.equal(w.project.state.get(), "live");
  w.hub.write("task", "t1", { title: "one" });
  await settle();
  assert.deepEqual(await w.titles(), ["one"]);
});

test("a clock that is set back keeps nothing waiting, here or after a restart", async () => {
  const w = await (await world()).online();
  let refused = 0;
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write" || refused++ >= 1) return false;
    socket.tell({ type: "error", id: frame.id, code: "overloaded", message: "wait", retry_after_ms: 3000 } as never);
    return true;
  };
  await w.project.insert("task", { title: "a" }, { id: "t1" }).local;
  await settle();
  w.clock.skew = -86_400_000;
  await w.clock.advance(2900);
  assert.equal(w.hub.head, 0);
  await w.clock.advance(200);
  assert.equal(w.hub.head, 1);
  refused = 0;
  await w.project.insert("task", { title: "b" }, { id: "t2" }).local;
  await settle();
  assert.deepEqual([refused, w.project.pending()[0]?.attempts], [1, 1]);
  const again = await (await w.restart()).online();
  assert.deepEqual([again.hub.head, again.project.pending().length], [2, 0]);
});

test("what was stored by a client that kept times is sent at once", async () => {
  let w = await world();
  await w.project.insert("task", { title: "a" }, { id: "t1" }).local;
  const [[key, op]] = (await w.storage.disk.list("ops", "")) as [[string, object]];
  await w.storage.disk.commit([{ table: "ops", key, value: { ...op, nextAt: w.clock.now() + 86_400_000 } }]);
  w = await (await w.restart()).online();
  assert.equal(w.hub.head, 1);
});

test("an operation that is refused for good while the disk fails ends in the failed lane once it works", async () => {
  const w = await (await world()).online();
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write") return false;
    w.storage.fault = () => new Error("disk");
    socket.tell({ type: "error", id: frame.id, code: "bad_request", message: "no" } as never);
    return true;
  };
  await w.project.insert("task", { title: "a" }, { id: "t1" }).local;
  await settle();
  w.hub.instead = (frame, socket) => {
    if (frame.type === "write") socket.tell({ type: "error", id: frame.id, code: "bad_request", message: "no" } as never);
    return frame.type === "write";
  };
  w.storage.fault = undefined;
  await w.clock.advance(60_000);
  assert.deepEqual(w.project.pending().map(({ state, problem }) => [state, problem?.code]), [["failed", "bad_request"]]);
});

/** A client whose operation on `t1` was rejected. */
async function rejected(): Promise<{ w: World; opId: string }> {
  const w = await (await world()).online();
  w.hub.decide = () => ({ outcome: "rejected", code: "forbidden", message: "no" });
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await assert.rejects(edit.synced, /no/);
  assert.equal(w.client.status.get().failed, 1);
  return { w, opId: edit.opId };
}
const lane = (w: World) => w.project.pending().map(({ state, problem }) => [state, problem?.code]);
const retried = (w: World, verdict: object) => w.hub.tell({ type: "verdict", project: "p", verdict } as never);

test("a rejected operation that succeeds when somebody else tries it again leaves the failed lane", async () => {
  const { w, opId } = await rejected();
  retried(w, { op_id: opId, outcome: "applied", id: "t1", seq: 1, version: 1 });
  await settle();
  // Decided, and shown until its change is here.
  assert.deepEqual([lane(w), w.client.status.get().failed, await w.titles()], [[], 0, ["a"]]);
  w.hub.write("task", "t1", { title: "a" }, opId);
  await settle();
  assert.deepEqual([w.project.replica.ops, await w.titles()], [[], ["a"]]);
});

test("one that is rejected again says why now; one that another edit stands against leaves the lane", async () => {
  const { w, opId } = await rejected();
  retried(w, { op_id: opId, outcome: "rejected", id: "t1", code: "limit_exceeded", message: "too many" });
  await settle();
  assert.deepEqual(lane(w), [["failed", "limit_exceeded"]]);
  const conflict = { id: "c-1", kind: "exists", state: "open", outcome: "conflict", strategy: "manual", entity: { type: "task", id: "t1" }, op_id: opId };
  const fields = [{ name: "title", client: "a", server: "theirs", conflict: true, strategy: "manual" }];
  const told = { ...conflict, op_kind: "create", user: "ana", base: 0, server_version: 4, fields, created_at: 1 };
  w.hub.tell({ type: "conflict", project: "p", conflict: told } as never);
  retried(w, { op_id: opId, outcome: "conflict", code: "exists", id: "t1", conflict: "c-1" });
  await settle();
  assert.deepEqual(lane(w), []);
  // The verdict has no fields: the hub's record of the conflict stays as it is.
  const [known] = w.project.conflicts();
  assert.deepEqual([known?.state, known?.server, known?.serverVersion], ["open", { title: "theirs" }, 4]);
});

test("a verdict of what another device sent, or of what is not known here, changes nothing", async () => {
  const { w } = await rejected();
  retried(w, { op_id: "another", outcome: "applied", id: "t1", seq: 1, version: 1 });
  await settle();
  assert.deepEqual(lane(w), [["failed", "forbidden"]]);
});

test("an operation that met a limit of the moment is sent again when the hub says", async () => {
  const w = await (await world()).online();
  let refused = 0;
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write" || refused++ > 0) return false;
    // Too many requests at once are unanswered: no fault of this one.
    socket.tell({ type: "error", id: frame.id, code: "limit_exceeded", message: "wait", retry_after_ms: 100 } as never);
    return true;
  };
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await w.clock.advance(5000);
  assert.equal((await edit.synced).outcome, "applied");
});
