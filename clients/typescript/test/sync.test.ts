/** A project's copy and its outbox: overlay, order, gaps, crashes, verdicts of every kind. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { RejectedError } from "../src/errors.js";
import type { Entity } from "../src/model.js";
import type { Conflict } from "../src/protocol/server.gen.js";
import { cleanUp, syncNow } from "../src/sync.js";
import { settle } from "./support/clock.js";
import { FaultyStorage } from "./support/faulty.js";
import { World } from "./support/world.js";

const world = () => new World().start();

test("a copy begins with the state, then follows", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  await (await w.start()).online();
  assert.deepEqual(await w.titles(), ["one"]);
  w.hub.write("task", "t1", { title: "uno" });
  w.hub.write("task", "t2", { title: "two" });
  w.hub.write("task", "t3", { title: "three" });
  w.hub.write("task", "t3", null);
  await settle();
  assert.deepEqual(await w.titles(), ["uno", "two"]);
  await w.clock.advance(200);
  assert.deepEqual(w.hub.heard.at(-1), { type: "ack", project: "p", seq: 5 });
});

test("edits made offline show at once, survive a restart, and are sent in order", async () => {
  let w = await world();
  const { local } = w.project.insert("task", { title: "a" }, { id: "t1" });
  await local;
  await w.project.update("task", "t1", { title: "b", done: true }).local;
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "b", done: true });
  assert.equal(w.client.status.get().pending, 2);
  w = await w.restart();
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "b", done: true });
  await w.online();
  assert.deepEqual(w.hub.log.map(({ kind }) => kind), ["create", "update"]);
  assert.equal(w.project.pending().length, 0);
  const entity = await w.project.get("task", "t1");
  assert.deepEqual([entity?.fields, entity?.pending, entity?.version], [{ title: "b", done: true }, 0, 2]);
});

test("an update says what it started from, queued edits included", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one", hours: 5 });
  await (await w.start()).online();
  w.client.disconnect();
  await w.project.update("task", "t1", { hours: 6 }).local;
  await w.project.update("task", "t1", { hours: 8, note: "new" }).local;
  const [first, second] = w.project.pending();
  assert.deepEqual([first?.base, first?.was], [1, { hours: 5 }]);
  assert.deepEqual([second?.base, second?.was], [1, { hours: 6 }]);
});

test("a view rebases pending edits on every change, and never flickers when they are decided", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one", by: "hub" });
  await (await w.start()).online();
  const seen: unknown[] = [];
  const live = w.project.watch("task", "t1");
  live.subscribe(() => {
    const { data } = live.get();
    seen.push([data?.fields["title"], data?.fields["by"]]);
  });
  await settle();
  // The verdict arrives long before the change it speaks of.
  const held: unknown[] = [];
  w.hub.deliver = (frame) => frame.type !== "change" || !held.push(frame);
  const edit = w.project.update("task", "t1", { title: "mine" });
  await edit.synced;
  await settle();
  assert.equal(w.project.pending().length, 0);
  assert.equal(live.get().data?.fields["title"], "mine");
  w.hub.deliver = () => true;
  for (const frame of held) w.hub.tell(frame as never);
  w.hub.write("task", "t1", { by: "other" });
  await settle();
  assert.deepEqual(live.get().data, { type: "task", id: "t1", version: 3, fields: { title: "mine", by: "other" }, pending: 0 });
  const titles = seen.map((pair) => (pair as string[])[0]);
  assert.ok(!titles.slice(titles.indexOf("mine")).includes("one"), `it fell back: ${JSON.stringify(seen)}`);
});

test("a gap is filled from the cursor, and nothing is applied twice or missed", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  await (await w.start()).online();
  w.hub.deliver = (frame) => frame.type !== "change" || frame.seq !== 3;
  for (const title of ["b", "c", "d"]) w.hub.write("task", `t-${title}`, { title });
  await w.clock.advance(1000);
  assert.deepEqual(await w.titles(), ["b", "c", "d", "one"]);
  assert.equal(w.project.replica.cursor?.seq, 4);
  assert.equal(w.project.state.get(), "live");
});

test("what the first page of a copy began at goes back with every further page, and not beyond the last", async () => {
  const w = new World();
  for (let at = 0; at < 5; at++) w.hub.write("task", `t${at}`, { title: `t${at}` });
  w.hub.pageRows = 2;
  await (await w.start()).online();
  const pages = () => w.hub.requests.filter((path) => path.includes("/changes")).map((path) => path.replace(/.*\?/, "").replace(/&epoch=[^&]*/, ""));
  assert.deepEqual(pages(), ["since=0", "since=2&begun=5", "since=4&begun=5"]);
  w.client.disconnect();
  w.hub.write("task", "t5", { title: "t5" });
  assert.equal((await syncNow(w.client)).error, undefined);
  assert.equal(pages().at(-1), "since=5");
  // Broken off between pages, and begun again by another process.
  const v = new World(w.hub);
  await v.start();
  const { fetch } = w.hub;
  let left = 2;
  Object.assign(v.client.parts.http, { fetch: (url: string, init: never) => (url.includes("/changes") && left-- <= 0 ? Promise.reject(new TypeError("offline")) : fetch(url, init)) });
  await v.online();
  const again = await v.restart();
  w.hub.requests.length = 0;
  await again.online();
  assert.equal(pages()[0], "since=4&begun=6");
  assert.equal((await again.titles()).length, 6);
});

test("an edit of what is not here fetches the whole entity before the cursor passes", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one", note: "kept" });
  await (await w.start()).online();
  await w.project.replica.transact(async (change) => change.dropRow("task", "t1"));
  w.hub.write("task", "t1", { title: "uno" });
  await settle();
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "uno", note: "kept" });
});

test("a resync drops what the fresh copy does not name, and no pending work", async () => {
  const w = new World();
  for (const id of ["t1", "t2", "t3"]) w.hub.write("task", id, { title: id });
  await (await w.start()).online();
  w.client.disconnect();
  await w.project.update("task", "t2", { title: "edited" }).local;
  await w.project.insert("task", { title: "new" }, { id: "t9" }).local;
  // The hub comes back from a backup: another epoch, lower versions, some entities unknown.
  w.hub.log.length = 0;
  w.hub.entities.clear();
  w.hub.verdicts.clear();
  w.hub.epoch = "00000000-0000-4000-8000-000000000002";
  w.hub.write("task", "t1", { title: "from backup" });
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe" || frame.rooms[0]?.epoch === w.hub.epoch) return false;
    const rooms = [{ room: "project:p", seq: 1, epoch: w.hub.epoch, recovered: false, resync: "epoch_changed" }];
    socket.following = true;
    socket.tell({ type: "subscribed", id: (frame as { id?: number }).id, rooms } as never);
    return true;
  };
  w.hub.decide = (op) => (op.id === "t2" ? { outcome: "rejected", code: "not_found", message: "gone" } : undefined);
  await w.online();
  await w.clock.advance(1000);
  assert.deepEqual(await w.titles(), ["from backup", "new"]);
  assert.deepEqual(w.project.pending().map(({ id, state }) => [id, state]), [["t2", "failed"]]);
});

test("lost access purges what came, and no pending work", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  w.hub.write("payroll", "p1", { salary: 1 });
  await (await w.start()).online();
  w.hub.tell({ type: "gone", room: "project:p", reason: "scope_changed", types: ["payroll"] } as never);
  await settle();
  assert.equal(await w.project.get("payroll", "p1"), undefined);
  assert.deepEqual(await w.titles(), ["one"]);
  w.hub.instead = (frame) => frame.type === "write";
  await w.project.insert("task", { title: "mine" }, { id: "t2" }).local;
  w.hub.tell({ type: "gone", room: "project:p", reason: "access_lost" } as never);
  await settle();
  assert.equal(w.project.state.get(), "denied");
  assert.deepEqual(await w.titles(), ["mine"]);
  assert.equal(w.project.pending().length, 1);
});

test("an operation is sent again until it has a verdict, always the same text", async () => {
  const w = await world();
  await w.project.insert("task", { title: "a" }, { id: "t1" }).local;
  const written: unknown[] = [];
  w.hub.instead = (frame) => {
    if (frame.type !== "write") return false;
    const { id: _, sent_at: __, ...rest } = frame as never as Record<string, unknown>;
    written.push(rest);
    return written.length < 3;
  };
  await w.online();
  w.hub.cut();
  await w.clock.advance(5000);
  w.hub.cut();
  await w.clock.advance(5000);
  assert.equal(written.length, 3);
  assert.deepEqual(written[1], written[0]);
  assert.deepEqual(written[2], written[0]);
  assert.equal(w.project.pending().length, 0);
});

test("a busy hub is given time, with growing waits", async () => {
  const w = await world();
  let refused = 0;
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write" || refused++ >= 3) return false;
    const id = (frame as { id?: number }).id;
    socket.tell({ type: "error", id, code: "overloaded", message: "wait", retry_after_ms: 3000 } as never);
    return true;
  };
  await w.project.insert("task", { title: "a" }, { id: "t1" }).local;
  await w.online();
  await w.clock.advance(2900);
  assert.equal(refused, 1);
  await w.clock.advance(200);
  assert.equal(refused, 2);
  await w.clock.advance(10_000);
  assert.equal(w.project.pending().length, 0);
});

test("a rejected operation waits in the failed lane and blocks nobody", async () => {
  const w = await world();
  w.hub.decide = (op) => (op.id === "bad" ? { outcome: "rejected", code: "limit_exceeded", message: "too large" } : undefined);
  const bad = w.project.insert("task", { title: "bad" }, { id: "bad" });
  const good = w.project.insert("task", { title: "good" }, { id: "good" });
  await w.online();
  await assert.rejects(bad.synced, RejectedError);
  assert.equal((await good.synced).outcome, "applied");
  assert.deepEqual(await w.titles(), ["good"]);
  assert.equal(w.client.status.get().failed, 1);
  assert.match(w.project.exportPending(), /too large/);
  w.hub.decide = undefined;
  const again = await w.project.retry(bad.opId);
  assert.equal((await again.synced).outcome, "applied");
  await settle();
  assert.deepEqual(await w.titles(), ["bad", "good"]);
  assert.equal(w.client.status.get().failed, 0);
});

test("one operation the hub cannot read does not keep the others away", async () => {
  const w = await world();
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "write" || !frame.ops.some(({ id }) => id === "poison")) return false;
    socket.tell({ type: "error", id: (frame as { id?: number }).id, code: "bad_request", message: "no" } as never);
    return true;
  };
  for (const id of ["t1", "poison", "t2"]) await w.project.insert("task", { title: id }, { id }).local;
  await w.online();
  assert.deepEqual(w.hub.log.map(({ id }) => id), ["t1", "t2"]);
  assert.deepEqual(w.project.pending().map(({ id, state }) => [id, state]), [["poison", "failed"]]);
  await w.project.discard(w.project.pending()[0]!.opId);
  assert.equal(w.project.pending().length, 0);
});

test("a local id becomes the hub's, for edits before and after", async () => {
  const w = await world();
  const made = w.project.insert("task", { title: "a" }, { id: "local" });
  await made.local;
  await w.project.update("task", made.id, { title: "b" }).local;
  assert.deepEqual(await w.titles(), ["b"]);
  const live = w.project.watch("task", made.id);
  live.subscribe(() => {});
  w.hub.instead = (frame) => {
    // The mapping is the hub's: the second operation speaks of the local name.
    if (frame.type === "write") for (const op of frame.ops) if (op.kind === "update") op.id = `id-${made.id.slice(6, 14)}`;
    return false;
  };
  const verdict = await (await w.online(), made.synced);
  await settle();
  const all = (await w.project.query("task").ready()) as Entity[];
  assert.deepEqual(all.map(({ id, fields }) => [id, fields["title"]]), [[verdict.id, "b"]]);
  assert.equal(live.get().data?.id, verdict.id);
  assert.equal((await w.project.get("task", made.id))?.id, verdict.id);
});

test("who loses keeps their values; who is asked decides", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one", approval: "none" });
  await (await w.start()).online();
  w.hub.decide = (op) => {
    if (op.kind === "resolve") return undefined;
    const current = { version: 1, fields: { title: "one", approval: "theirs" } };
    if (op.fields?.["title"]) return { outcome: "superseded", code: "fields", conflict: "c-1", current };
    return { outcome: "conflict", code: "fields", conflict: "c-2", current };
  };
  assert.equal((await w.project.update("task", "t1", { title: "lost" }).synced).outcome, "superseded");
  assert.equal((await w.project.update("task", "t1", { approval: "mine" }).synced).outcome, "conflict");
  assert.equal((await w.project.get("task", "t1"))?.fields["title"], "one");
  const [open, closed] = w.project.conflicts();
  assert.deepEqual([open?.state, open?.client, open?.server["approval"]], ["open", { approval: "mine" }, "theirs"]);
  assert.deepEqual([closed?.state, closed?.client], ["closed", { title: "lost" }]);
  assert.equal(w.client.status.get().conflicts, 1);
  await w.project.resolve("c-2", { choose: "client" }).synced;
  const sent = w.hub.heard.filter(({ type }) => type === "write").at(-1) as unknown as { ops: Record<string, unknown>[] };
  assert.equal(sent.ops[0]?.["conflict"], "c-2");
  assert.equal(sent.ops[0]?.["expected_version"], 1);
  assert.equal(w.client.status.get().conflicts, 0);
});

test("conflicts that opened or ended while the device was away are heard of at the next session", async () => {
  const conflict = (id: string): Conflict => ({
    id,
    entity: { type: "task", id: "t1" },
    op_id: `op-${id}`,
    op_kind: "update",
    user: "ana",
    client: "another",
    kind: "fields",
    strategy: "manual",
    outcome: "conflict",
    state: "open",
    base: 1,
    server_version: 2,
    fields: [{ name: "title", client: "mine", server: "theirs", strategy: "manual", conflict: true }],
    created_at: 0,
  });
  const w = new World();
  w.hub.open = [conflict("c-1"), conflict("c-2")];
  await (await w.start()).online();
  const states = () => Object.fromEntries(w.project.conflicts().map(({ id, state }) => [id, state]));
  await settle();
  assert.deepEqual(states(), { "c-1": "open", "c-2": "open" });
  w.client.disconnect();
  w.hub.open = [conflict("c-2"), conflict("c-3")];
  await w.online();
  await settle();
  assert.deepEqual(states(), { "c-1": "resolved", "c-2": "open", "c-3": "open" });
  assert.deepEqual(w.project.conflicts().find(({ id }) => id === "c-3")?.client, { title: "mine" });
});

for (const when of ["dead", "after"] as const) {
  test(`killed ${when === "dead" ? "before" : "after"} each commit, nothing is lost and nothing is done twice`, async () => {
    // The same story, killed at its first commit, then at its second, and so on.
    for (let kill = 2; ; kill++) {
      let w = new World();
      w.hub.write("task", "t1", { title: "one", hours: 1 });
      w.storage.fault = (_, commit) => (commit === kill ? when : undefined);
      /** What the user was told is stored. */
      const promised: string[] = [];
      const story = (async () => {
        await (await w.start()).online();
        for (const edit of [() => w.project.update("task", "t1", { title: "mine" }), () => w.project.insert("task", { title: "two" }, { id: "t2" })]) {
          const { opId, local } = edit();
          await local;
          promised.push(opId);
        }
        w.hub.write("task", "t3", { title: "three" });
        await settle();
        return true;
      })();
      const whole = await Promise.race([story, settle().then(settle).then(settle).then(settle).then(() => false)]);
      const made = w.storage.commits;
      const stored = (await w.storage.disk.list("ops", "")).length;
      w = await (w.project ? w.restart() : new World(w.hub, new FaultyStorage(w.storage.disk)).start());
      await w.online();
      await w.clock.advance(60_000);
      const disk = await w.project.replica.rows();
      for (const row of disk) assert.deepEqual(row.fields, w.hub.entities.get(`task:${row.id}`)?.fields, `kill ${kill}`);
      assert.equal(disk.length, w.hub.entities.size, `kill ${kill}: ${stored} stored`);
      assert.equal(w.project.pending().length, 0);
      for (const opId of promised) assert.ok(w.hub.verdicts.has(opId), `kill ${kill}: an edit was lost`);
      // Once, also under other names: nobody else edits the first, and nothing edits the second.
      const own = w.hub.log.filter(({ op_id }) => !op_id.startsWith("other-")).map(({ id }) => id);
      assert.deepEqual(own, [...new Set(own)], `kill ${kill}: an edit was done twice`);
      if (whole && made < kill) break;
    }
  });
}

test("a full store moves nothing, and heals when there is room", async () => {
  const w = await (await world()).online();
  let full = true;
  w.storage.fault = () => (full ? new DOMException("no room", "QuotaExceededError") : undefined);
  w.hub.write("task", "t1", { title: "one" });
  await w.clock.advance(500);
  assert.equal(w.project.replica.cursor?.seq, 0);
  assert.equal(w.client.status.get().storage?.full, true);
  const edit = w.project.insert("task", { title: "mine" });
  await assert.rejects(edit.local, /full/);
  await assert.rejects(edit.synced, /full/);
  full = false;
  await w.clock.advance(120_000);
  assert.deepEqual(await w.titles(), ["one"]);
  assert.equal(w.project.replica.cursor?.seq, 1);
});

test("a verdict that cannot be stored is asked for again", async () => {
  const w = await (await world()).online();
  const edit = w.project.insert("task", { title: "a" }, { id: "t1" });
  await edit.local;
  w.storage.fault = () => new Error("disk");
  await w.clock.advance(100);
  w.storage.fault = undefined;
  await w.clock.advance(120_000);
  assert.equal((await edit.synced).outcome, "applied");
  assert.equal(w.hub.log.length, 1);
  assert.deepEqual(await w.titles(), ["a"]);
});

test("a clean-up forgets what nobody used, and keeps what waits", async () => {
  let w = await (await world()).online();
  w.hub.write("task", "t1", { title: "one" });
  w.hub.write("task", "t2", { title: "two" });
  await settle();
  w.client.disconnect();
  await w.project.update("task", "t2", { title: "edited" }).local;
  w.project.stream.stop();
  await w.clock.advance(29 * 86_400_000);
  assert.equal((await cleanUp(w.client)).projects, 0);
  await w.clock.advance(2 * 86_400_000);
  assert.deepEqual(await cleanUp(w.client), { rows: 1, projects: 1, records: 0 });
  assert.equal(await w.project.get("task", "t1"), undefined);
  assert.deepEqual((await w.project.get("task", "t2"))?.fields, { title: "edited" });
  w = await w.restart();
  await w.online();
  await w.clock.advance(1000);
  assert.deepEqual(await w.titles(), ["one", "edited"]);
});

test("a clean-up forgets ended conflicts, in memory, too, and none that waits", async () => {
  const w = await (await world()).online();
  w.hub.decide = ({ id }) => ({ outcome: id === "t1" ? "superseded" : "conflict", code: "fields", conflict: `c-${id}`, current: { version: 1, fields: { title: "theirs" } } });
  for (const id of ["t1", "t2"]) await w.project.update("task", id, { title: "mine" }).synced;
  let heard = 0;
  w.project.conflictsChanged(() => heard++);
  const known = () => w.project.conflicts().map(({ id }) => id);
  await w.clock.advance(29 * 86_400_000);
  assert.deepEqual([(await cleanUp(w.client)).records, known()], [0, ["c-t2", "c-t1"]]);
  await w.clock.advance(2 * 86_400_000);
  assert.deepEqual([(await cleanUp(w.client)).records, known(), heard], [1, ["c-t2"], 1]);
  const again = await w.restart();
  assert.deepEqual(again.project.conflicts().map(({ id }) => id), ["c-t2"]);
});

test("what the background keeps up to date, but nobody looks at, is cleaned up; what somebody looks at stays", async () => {
  const w = await (await world()).online();
  await w.clock.advance(1000);
  /** How many days there is a sync, and nothing else. */
  const alone = async (days: number) => {
    w.leave();
    w.client.disconnect();
    for (let day = 0; day < days; day++) {
      await w.clock.advance(86_400_000);
      w.hub.write("task", "t1", { title: `day ${day}` });
      assert.equal((await syncNow(w.client)).complete, true);
    }
    return (await cleanUp(w.client)).projects;
  };
  assert.equal(await alone(20), 0);
  await w.titles();
  assert.equal(await alone(20), 0);
  await w.project.watch("task", "t1").ready();
  assert.equal(await alone(20), 0);
  await w.project.get("task", "t1");
  assert.equal(await alone(20), 0);
  // Followed for long, by a change that came in the end.
  w.leave = w.project.subscribe();
  await w.online();
  w.clock.skew += 40 * 86_400_000;
  w.hub.write("task", "t2", {});
  await w.clock.advance(1000);
  assert.equal(await alone(20), 0);
  assert.equal(await alone(11), 1);
});

test("an entity can be followed without its project", async () => {
  const w = await alone();
  assert.deepEqual(await w.titles(), ["one"]);
  const [socket] = w.hub.sockets;
  socket!.following = true;
  w.hub.write("task", "t1", { title: "two" });
  w.hub.write("task", "t2", { title: "not followed" });
  await settle();
  assert.deepEqual(await w.titles(), ["two"]);
  // One change is lost: the next one's `prev` tells.
  w.hub.deliver = (frame) => frame.type !== "change" || frame.seq !== 4;
  w.hub.write("task", "t1", { note: "lost" });
  w.hub.write("task", "t1", { title: "three" });
  await settle();
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "three", note: "lost" });
});

/** A client that follows `t1` without its project, and misses what is written while it is away. */
async function alone(): Promise<World> {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  await w.start();
  w.project.stream.stop();
  await w.online();
  w.project.follow("task", "t1");
  await settle();
  return w;
}
const read = ({ hub }: World) => hub.requests.filter((path) => path.endsWith("/task/t1")).length;

test("an entity that is followed alone and cannot be read is read again, later each time", async () => {
  const w = await alone();
  w.hub.cut();
  w.hub.write("task", "t1", { title: "two" });
  w.hub.refuse = (what) => (what.endsWith("/task/t1") ? "unavailable" : undefined);
  await w.clock.advance(2000);
  assert.equal(w.client.status.get().connection, "online");
  w.hub.requests.length = 0;
  await w.clock.advance(60_000);
  const tried = read(w);
  assert.ok(tried >= 3 && tried <= 8, `read ${tried} times in a minute`);
  w.hub.refuse = () => undefined;
  await w.clock.advance(60_100);
  assert.deepEqual(await w.titles(), ["two"]);
  assert.equal(read(w), tried + 1);
  await w.clock.advance(120_000);
  assert.equal(read(w), tried + 1);
  // The next trouble begins with short waits again.
  w.hub.refuse = (what) => (what.endsWith("/task/t1") ? "unavailable" : undefined);
  w.hub.tell({ type: "resync", room: "entity:p:task:t1", reason: "epoch_changed" } as never);
  await w.clock.advance(1100);
  assert.equal(read(w), tried + 3);
});

test("a change of an entity that is followed alone, which cannot be stored, is made up for", async () => {
  const w = await alone();
  w.hub.sockets[0]!.following = true;
  w.storage.fault = () => new Error("disk");
  w.hub.write("task", "t1", { title: "two" });
  await w.clock.advance(1500);
  w.storage.fault = undefined;
  await w.clock.advance(5000);
  assert.deepEqual(await w.titles(), ["two"]);
});

test("an entity that is followed alone and is forbidden is not asked for again", async () => {
  const w = await alone();
  w.hub.refuse = (what) => (what.endsWith("/task/t1") ? "forbidden" : undefined);
  w.hub.tell({ type: "resync", room: "entity:p:task:t1", reason: "epoch_changed" } as never);
  await settle();
  const before = read(w);
  await w.clock.advance(120_000);
  assert.deepEqual([await w.titles(), read(w)], [[], before]);
});

test("what a hub had decided and lost with a restore is sent again", async () => {
  const w = await (await world()).online();
  w.hub.deliver = (frame) => frame.type !== "change";
  await w.project.insert("task", { title: "mine" }, { id: "t1" }).synced;
  w.client.disconnect();
  w.hub.deliver = () => true;
  w.hub.log.length = 0;
  w.hub.entities.clear();
  w.hub.verdicts.clear();
  w.hub.epoch = "00000000-0000-4000-8000-000000000002";
  w.hub.write("task", "t0", { title: "from backup" });
  const result = await syncNow(w.client);
  assert.equal(result.error, undefined);
  await w.online();
  await w.clock.advance(1000);
  assert.deepEqual(w.hub.log.map(({ id }) => id), ["t0", "t1"]);
  assert.deepEqual(await w.titles(), ["from backup", "mine"]);
});
