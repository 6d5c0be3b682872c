/** What waits for the hub: answered late or not at all, decided from elsewhere, and held back for its time. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Edit } from "../src/outbox.js";
import type { ClientFrame } from "../src/protocol/client.gen.js";
import { syncNow } from "../src/sync.js";
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

/** Several that were rejected, and wait in the hub's lane; then the connection is lost. */
async function rejectedAndAway(count: number): Promise<{ w: World; opIds: string[] }> {
  const w = await (await world()).online();
  w.hub.decide = () => ({ outcome: "rejected", code: "forbidden", message: "no" });
  const edits = Array.from({ length: count }, (_, at) => w.project.insert("task", { title: `${at}` }, { id: `t${at}` }));
  for (const { synced } of edits) await assert.rejects(synced, /no/);
  const opIds = edits.map(({ opId }) => opId);
  for (const opId of opIds) w.hub.lane.set(opId, { code: "forbidden" });
  w.client.disconnect();
  w.hub.heard.length = w.hub.requests.length = 0;
  return { w, opIds };
}
/** Somebody else tries one again, with success. */
function triedAgain({ hub }: World, opId: string, id: string, title: string): void {
  hub.lane.delete(opId);
  const { seq } = hub.write("task", id, { title }, opId);
  hub.verdicts.set(opId, { op_id: opId, outcome: "applied", id, seq, version: seq });
}
const rewritten = ({ hub }: World) => hub.heard.flatMap((frame) => (frame.type === "write" ? frame.ops.map(({ op_id }) => op_id) : []));
const laneAsked = ({ hub }: World) => hub.requests.filter((request) => request.includes("/v1/sync/failed")).length;

test("what became of rejected operations while the client was away is found out with the next session", async () => {
  const { w, opIds } = await rejectedAndAway(4);
  triedAgain(w, opIds[0]!, "t0", "0");
  // Tried again in vain, for another reason.
  w.hub.lane.set(opIds[1]!, { code: "limit_exceeded" });
  w.hub.verdicts.set(opIds[1]!, { op_id: opIds[1]!, outcome: "rejected", id: "t1", code: "limit_exceeded", message: "too many" });
  // Taken out of the lane: its verdict stays.
  w.hub.lane.delete(opIds[2]!);
  const seen: unknown[] = [];
  w.project.pendingChanged(() => seen.push(...lane(w).filter(([state]) => state !== "failed")));
  await w.online();
  assert.deepEqual(lane(w), [["failed", "limit_exceeded"], ["failed", "forbidden"], ["failed", "forbidden"]]);
  assert.deepEqual([await w.titles(), w.project.replica.ops.length, w.client.status.get().failed], [["0"], 3, 3]);
  // Only what is not known is asked for, and nothing looks as if it was sent again.
  assert.deepEqual([rewritten(w), seen, w.hub.head, laneAsked(w)], [opIds.slice(0, 3), [], 1, 1]);
  // What is behind the lane's first page is asked for in vain.
  w.client.disconnect();
  w.hub.laneRows = 1;
  await w.online();
  assert.deepEqual([rewritten(w).slice(3), lane(w).length, w.hub.head], [opIds.slice(2), 3, 1]);
});

test("a client without rejected operations does not ask for the lane, and one whose rejections still wait sends nothing", async () => {
  const empty = await (await world()).online();
  assert.equal(laneAsked(empty), 0);
  const { w } = await rejectedAndAway(2);
  await w.online();
  assert.deepEqual([laneAsked(w), rewritten(w), lane(w).length], [1, [], 2]);
});

test("an old rejection, whose verdict the hub may have purged, is not sent to be decided anew", async () => {
  const { w } = await rejectedAndAway(1);
  w.hub.lane.clear();
  w.hub.verdicts.clear();
  w.hub.decide = undefined;
  w.clock.skew = 100 * 86_400_000;
  await w.online();
  assert.deepEqual([rewritten(w), lane(w), w.hub.head], [[], [["failed", "forbidden"]], 0]);
});

test("asking what became of rejected operations begins again with the next session if it was broken off", async () => {
  const { w, opIds } = await rejectedAndAway(1);
  triedAgain(w, opIds[0]!, "t0", "0");
  w.hub.refuse = (what) => (what === "/v1/sync/failed" ? "unavailable" : undefined);
  await w.online();
  assert.equal(lane(w).length, 1);
  w.hub.refuse = () => undefined;
  w.client.disconnect();
  await w.online();
  assert.deepEqual([lane(w), await w.titles()], [[], ["0"]]);
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

/** A client that edits a project it does not follow: no change of it ever comes. */
async function unfollowed(before?: (w: World) => void): Promise<World> {
  const w = await world();
  w.leave();
  before?.(w);
  return w.online();
}

test("what is decided in a project that nobody follows is settled with the verdict, and shown as the hub has it", async () => {
  const w = await unfollowed();
  w.hub.decide = ({ kind }) => (kind === "update" ? { outcome: "merged", fields: { title: "b", hours: 9 } } : undefined);
  await w.project.insert("task", { title: "a" }, { id: "t1" }).synced;
  await w.project.insert("task", { title: "gone" }, { id: "t2" }).synced;
  await w.project.update("task", "t1", { title: "b", hours: 1 }).synced;
  await w.project.delete("task", "t2").synced;
  await settle();
  assert.deepEqual([w.project.replica.ops, await w.storage.disk.list("ops", "")], [[], []]);
  const task = await w.project.get("task", "t1");
  assert.deepEqual([task?.fields, task?.pending], [{ title: "b", hours: 9 }, 0]);
  assert.equal(await w.project.get("task", "t2"), undefined);
  // An edit of what is not here leaves no half an entity behind.
  w.hub.write("task", "t3", { title: "theirs", hours: 1 });
  await w.project.update("task", "t3", { hours: 2 }).synced;
  assert.equal(await w.project.get("task", "t3"), undefined);
  // Whoever follows it later gets all there is, also what others did before.
  w.project.subscribe();
  await settle();
  assert.deepEqual((await w.project.query("task").ready()).map(({ id, fields }) => [id, fields]), [
    ["t1", { title: "b", hours: 9 }],
    ["t3", { title: "b", hours: 9 }],
  ]);
});

test("a row that a verdict was folded into yields to whatever the hub says of it later", async () => {
  const w = await (await world()).online();
  w.hub.write("task", "t1", { title: "a", hours: 1 });
  await settle();
  w.leave();
  // Not heard of here: the edit is made on the old state, and shows beside it.
  w.hub.sockets[0]!.following = false;
  w.hub.write("task", "t1", { hours: 5 });
  await w.project.update("task", "t1", { title: "b" }).synced;
  const task = () => w.project.get("task", "t1").then((one) => [one?.version, one?.fields, one?.pending]);
  assert.deepEqual(await task(), [1, { title: "b", hours: 1 }, 0]);
  await w.project.update("task", "t1", { hours: 2 }).local;
  const writes = w.hub.heard.filter(({ type }) => type === "write") as { ops: { base: number; was?: object }[] }[];
  await settle();
  assert.deepEqual(writes.length, 1);
  const last = (w.hub.heard.filter(({ type }) => type === "write") as typeof writes).at(-1)!.ops[0]!;
  // Of the version its user saw: the hub finds out what they did not see.
  assert.deepEqual([last.base, last.was], [1, { hours: 1 }]);
  w.project.subscribe();
  await settle();
  assert.deepEqual(await task(), [4, { title: "b", hours: 2 }, 0]);
});

test("an entity that is asked for while its edit is decided is not put back to before", async () => {
  const w = await unfollowed(({ hub }) => hub.write("task", "t1", { title: "a" }));
  await w.project.fetch("task", "t1");
  const edit = w.project.update("task", "t1", { title: "b" });
  await edit.local;
  const { fetch } = w.hub;
  const asked = w.hub.requests.length;
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  // The answer is made before the edit is decided, and comes after.
  const slow = w.client.parts.http as unknown as { fetch: typeof fetch };
  slow.fetch = async (...args) => {
    slow.fetch = fetch;
    const answer = await fetch(...args);
    await held;
    return answer;
  };
  const fetched = w.project.fetch("task", "t1");
  await edit.synced;
  release();
  assert.deepEqual([(await fetched)?.fields, w.hub.requests.length - asked > 1], [{ title: "b" }, true]);
});

test("what was settled waits no longer for changes once its project, or its entity, is not followed any more", async () => {
  for (const what of ["project", "entity"]) {
    const w = await world();
    if (what === "entity") w.leave();
    const leave = what === "entity" ? w.project.follow("task", "t1") : w.leave;
    await w.online();
    w.hub.deliver = ({ type }) => type !== "change";
    await w.project.insert("task", { title: "a" }, { id: "t1" }).synced;
    await settle();
    // Until then it stays on top: a change is to come.
    assert.deepEqual(w.project.replica.ops.map(({ state }) => state), ["settled"], what);
    leave();
    await settle();
    assert.deepEqual([w.project.replica.ops, await w.titles()], [[], ["a"]], what);
  }
});

test("what a client that was killed had settled does not wait for changes that nobody follows", async () => {
  const w = await (await world()).online();
  w.hub.deliver = ({ type }) => type !== "change";
  await w.project.insert("task", { title: "a" }, { id: "t1" }).synced;
  const again = await w.restart();
  again.leave();
  assert.deepEqual(again.project.replica.ops.map(({ state }) => state), ["settled"]);
  await again.online();
  assert.deepEqual([again.project.replica.ops, await again.titles()], [[], ["a"]]);
});

/** Three edits that are made together, of which the last may be large. */
const three = ({ project }: World, text = "") =>
  project.together(() => [
    project.insert("task", { title: "a" }, { id: "t1" }),
    project.update("task", "t1", { title: "b" }),
    project.insert("task", { title: `c${text}` }, { id: "t2" }),
  ]);
const writes = ({ hub }: World) => hub.heard.flatMap((frame) => (frame.type === "write" ? [frame.ops] : []));

test("what is made together is stored in one commit and sent in one request, whatever is made beside it", async () => {
  const w = await (await world()).online();
  const commits: number[] = [];
  w.storage.fault = (puts) => void commits.push(puts.filter(({ table }) => table === "ops").length);
  const edits = three(w);
  const beside = w.project.update("task", "t1", { title: "d" });
  await Promise.all(edits.map(({ local }) => local));
  assert.equal(commits[0], 3);
  await Promise.all([...edits, beside].map(({ synced }) => synced));
  assert.equal(writes(w)[0]?.filter(({ group }) => group !== undefined && group === writes(w)[0]?.[0]?.group).length, 3);
  // Each says what it started from, in the light of those before it.
  assert.deepEqual(writes(w).flat().map(({ was }) => was), [undefined, { title: "a" }, undefined, { title: "b" }]);
  await settle();
  assert.deepEqual(await w.titles(), ["d", "c"]);
});

for (const when of ["dead", "after"] as const) {
  test(`what is made together is there whole or not at all after the process was killed (${when})`, async () => {
    let w = await (await world()).online();
    w.storage.fault = () => when;
    three(w);
    await settle();
    w = await (await w.restart()).online();
    assert.deepEqual(await w.titles(), when === "after" ? ["b", "c"] : []);
  });
}

test("what is made together fails together where it cannot be stored, and where making it fails", async () => {
  const w = await world();
  w.storage.fault = () => new Error("disk");
  for (const { local, synced } of three(w)) {
    await assert.rejects(local, /disk/);
    await assert.rejects(synced, /disk/);
  }
  w.storage.fault = undefined;
  let made: Edit | undefined;
  const broken = () =>
    w.project.together(() => {
      made = w.project.insert("task", { title: "a" });
      throw new RangeError("of the app");
    });
  assert.throws(broken, /of the app/);
  await assert.rejects(made!.local, /discarded/);
  await assert.rejects(made!.synced, /discarded/);
  await w.project.insert("task", { title: "alone" }).local;
  assert.deepEqual([await w.titles(), w.project.pending()[0]?.group], [["alone"], undefined]);
});

test("what is too large together waits in the failed lane, and keeps neither others nor the connection away", async () => {
  const w = await world();
  w.hub.limits = { frame_bytes: 10_000, op_bytes: 5000 };
  w.hub.instead = (frame) => JSON.stringify(frame).length > 10_000 && (w.hub.cut(4413, "frame_too_large"), true);
  const edits = w.project.together(() => [1, 2, 3, 4, 5].map((at) => w.project.insert("task", { text: "x".repeat(3000) }, { id: `g${at}` })));
  const oversized = three(w, "x".repeat(5000));
  const good = w.project.insert("task", { title: "good" }, { id: "good" });
  await w.online();
  assert.equal((await good.synced).outcome, "applied");
  for (const { synced } of [...edits, ...oversized]) await assert.rejects(synced, /larger than 5000 bytes, or together than 9000/);
  assert.deepEqual(w.hub.log.map(({ id }) => id), ["good"]);
  assert.deepEqual(lane(w), Array(8).fill(["failed", "limit_exceeded"]));
  assert.equal(w.client.status.get().connection, "online");
});

test("what was made together is tried again and discarded together", async () => {
  const w = await (await world()).online();
  w.hub.decide = () => ({ outcome: "rejected", code: "forbidden", message: "no" });
  const edits = three(w);
  for (const { synced } of edits) await assert.rejects(synced, /no/);
  w.hub.decide = undefined;
  const [first, again] = [w.project.retry(edits[1]!.opId), w.project.retry(edits[0]!.opId)];
  const beside = w.project.insert("task", { title: "z" }, { id: "t3" });
  await assert.rejects(again, /no failed operation/);
  assert.equal((await (await first).synced).outcome, "applied");
  await beside.synced;
  await settle();
  assert.deepEqual([await w.titles(), lane(w)], [["b", "c", "z"], []]);
  assert.deepEqual(writes(w)[1]?.slice(0, 3).map(({ kind, id }) => [kind, id]), [["create", "t1"], ["update", "t1"], ["create", "t2"]]);
  const replaced = writes(w)[1]?.slice(0, 3).map(({ replaces }) => replaces);
  assert.deepEqual(replaced, edits.map(({ opId }) => opId), "should the hub try the old ones again");
  w.client.disconnect();
  const thrown = w.project.together(() => [w.project.update("task", "t1", { title: "x" }), w.project.delete("task", "t2")]);
  await thrown[0]!.local;
  await w.project.discard(thrown[1]!.opId);
  await assert.rejects(thrown[0]!.synced, /discarded/);
  assert.deepEqual([await w.titles(), lane(w)], [["b", "c", "z"], []]);
});

const clears = ({ hub }: World) => hub.requests.filter((request) => request.endsWith("/v1/sync/failed/clear")).length;

test("what is discarded leaves the hub's failed lane, too, so that nobody tries it again", async () => {
  const { w, opId } = await rejected();
  w.hub.lane.set(opId, { code: "forbidden" }).set("another", { code: "forbidden" });
  await w.project.discard(opId);
  await settle();
  assert.deepEqual([lane(w), [...w.hub.lane.keys()]], [[], ["another"]]);
  assert.deepEqual(await w.storage.disk.list("ops", ""), []);
  // Once is enough.
  w.client.disconnect();
  await w.online();
  assert.equal(clears(w), 1);
});

test("the hub hears of what was discarded offline with a later session, also after a restart, and with the background's sync", async () => {
  for (const how of ["session", "background"]) {
    const { w, opIds } = await rejectedAndAway(3);
    await w.project.discard(opIds[0]!);
    await settle();
    assert.deepEqual([clears(w), w.hub.lane.size], [0, 3], "it is offline by its user's will");
    const again = await w.restart();
    assert.deepEqual([again.client.status.get().failed, again.project.pending().length], [2, 2]);
    // Not there yet, or broken off: it is told again.
    again.hub.refuse = (what) => (what.endsWith("/clear") ? "unavailable" : undefined);
    await again.online();
    again.client.disconnect();
    again.hub.refuse = () => undefined;
    if (how === "session") await again.online();
    else await syncNow(again.client);
    assert.deepEqual([[...again.hub.lane.keys()], await again.storage.disk.list("ops", "")].map((all) => all.length), [2, 2], how);
    assert.equal(again.hub.lane.has(opIds[0]!), false);
    // What is made next takes no other's place.
    await again.project.insert("task", { title: "new" }, { id: "new" }).local;
    assert.equal((await again.storage.disk.list("ops", "")).length, 3);
  }
});

test("with what is tried again and discarded goes the one in whose place it was, and what was discarded on its way", async () => {
  const { w, opIds } = await rejectedAndAway(1);
  const { opId } = await w.project.retry(opIds[0]!);
  await w.project.discard(opId);
  await w.online();
  assert.equal(w.hub.lane.size, 0);
  // Rejected only after it was discarded.
  const kept = swallow(w, "write");
  const edit = w.project.insert("task", { title: "b" }, { id: "t9" });
  await settle();
  await w.project.discard(edit.opId);
  await settle();
  w.hub.lane.set(edit.opId, { code: "forbidden" });
  w.hub.take(...kept[0]!);
  await settle();
  assert.deepEqual([w.hub.lane.size, lane(w)], [0, []]);
});

test("an edit is what it was when it was made, whatever the app does with its objects afterwards", async () => {
  const w = await (await world()).online();
  const fields = { title: "a", tags: ["x"], at: new Date(0) };
  const notify = { users: ["bo"], title: "look" };
  let heard = 0;
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write" || heard++ > 0) return false;
    socket.tell({ type: "error", id: frame.id, code: "internal", message: "again" } as never);
    return true;
  };
  const edit = w.project.insert("task", fields, { id: "t1", notify: notify as never });
  fields.title = "b";
  await edit.local;
  await settle();
  fields.tags.push("y");
  notify.users.push("cy");
  await w.clock.advance(5000);
  await edit.synced;
  const [first, second] = writes(w);
  assert.equal(JSON.stringify(first), JSON.stringify(second));
  assert.deepEqual([first![0]!.fields, first![0]!.notify], [{ title: "a", tags: ["x"], at: "1970-01-01T00:00:00.000Z" }, { users: ["bo"], title: "look" }]);
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, first![0]!.fields);
});

test("an edit that is stored is made, even if it cannot be read back at once; views read it again", async () => {
  const w = await world();
  const tasks = w.project.query<{ title: string }>("task");
  tasks.subscribe(() => {});
  await tasks.ready();
  const { get } = w.storage;
  w.storage.get = () => Promise.reject(new Error("the disk is slow"));
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await edit.local;
  w.storage.get = get;
  await settle();
  assert.equal(w.client.status.get().pending, 1);
  await w.project.insert("task", { title: "b" }, { id: "t2" }).local;
  await settle();
  assert.deepEqual(tasks.get().data.map(({ fields }) => fields.title), ["a", "b"]);
  await w.online();
  assert.equal((await edit.synced).outcome, "applied");
});
