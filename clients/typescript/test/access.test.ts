/** Access that is lost: what came from it goes at once, and nothing brings it back; work that waits stays. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { cleanUp, syncNow } from "../src/sync.js";
import { verify } from "../src/verify.js";
import { settle } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";
import { World } from "./support/world.js";

/** A client that is live, whose HTTP answers can be kept on their way. */
class Slow extends World {
  /** How many answers are under way. */
  late = 0;
  private kept = "";
  private open = Promise.resolve();
  private release = () => {};

  /** Answers to such requests are made, and stay on their way until `let`. */
  keep(kept = ""): void {
    this.kept = kept;
    this.open = new Promise((resolve) => (this.release = resolve));
  }

  async let(): Promise<void> {
    this.release();
    await settle();
  }

  async live(): Promise<this> {
    const fetch: FakeHub["fetch"] = async (url, init) => {
      const answer = await this.hub.fetch(url, init);
      if (!url.includes(this.kept)) return answer;
      this.late++;
      await this.open;
      this.late--;
      return answer;
    };
    await this.start({ fetch });
    return this.online();
  }

  /** What is on the device, whoever looks at it. */
  async held(): Promise<string[]> {
    return (await this.project.replica.rows()).filter(({ deleted }) => !deleted).map(({ type, id }) => `${type}:${id}`);
  }
}

const GONE = { type: "gone", room: "project:p", reason: "access_lost" } as never;
const NARROWER = { type: "gone", room: "project:p", reason: "scope_changed", types: ["payroll"] } as never;
const forbidden = () => "forbidden";

test("access lost while away is learnt when the room is refused; work that waits gets the hub's answer", async () => {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  w.client.disconnect();
  const edit = w.project.update("task", "t1", { title: "mine" });
  await edit.local;
  w.hub.refuse = forbidden;
  w.hub.instead = (frame) => frame.type === "write";
  await w.online();
  assert.deepEqual([await w.held(), w.project.replica.cursor, w.project.state.get()], [[], undefined, "denied"]);
  assert.deepEqual(w.project.pending().map(({ id, state }) => [id, state]), [["t1", "queued"]]);
  w.hub.instead = undefined;
  w.hub.decide = () => ({ outcome: "rejected", code: "forbidden", message: "no" });
  await w.clock.advance(35_000);
  assert.deepEqual(w.project.pending().map(({ state, problem }) => [state, problem?.code]), [["failed", "forbidden"]]);
  // And whoever is let in again begins anew.
  w.hub.refuse = () => undefined;
  w.hub.tell({ type: "access", projects: { p: { role: "editor" } } } as never);
  await settle();
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1"], "live"]);
});

/** A client that has heard of a conflict about a task, and of one about a payroll. */
async function conflicted(w: World): Promise<void> {
  for (const [id, type] of [["c-1", "task"], ["c-2", "payroll"]] as const) {
    const fields = ["title", "budget"].map((name) => ({ name, client: "mine", server: "theirs", conflict: true, strategy: "manual" }));
    const conflict = { id, kind: "fields", state: "open", outcome: "conflict", strategy: "manual", entity: { type, id: "t1" }, op_id: `op-${id}`, fields };
    w.hub.tell({ type: "conflict", project: "p", conflict: { ...conflict, op_kind: "update", user: "ana", base: 1, server_version: 4, created_at: 1 } } as never);
  }
  await settle();
}
/** What the device has of them, on its disk: the hub's values by conflict. */
const theirs = async ({ storage }: World) =>
  Object.fromEntries(((await storage.disk.list("conflicts", "")) as [string, { id: string; server: object }][]).map(([, { id, server }]) => [id, server]));

test("with access go the hub's values in conflicts; what the user wrote stays", async () => {
  const both = { title: "theirs", budget: "theirs" };
  const losses: [frame: object, left: object][] = [
    [GONE as object, { "c-1": {}, "c-2": {} }],
    [NARROWER as object, { "c-1": both, "c-2": {} }],
    [{ ...(NARROWER as object), types: [], fields: { task: ["budget"] } }, { "c-1": { title: "theirs" }, "c-2": both }],
  ];
  for (const [frame, left] of losses) {
    const w = await new Slow().live();
    await conflicted(w);
    w.hub.tell(frame as never);
    await settle();
    assert.deepEqual(await theirs(w), left);
    const seen = w.project.conflicts().map(({ id, server, client, state }) => [id, { server, client, state }]);
    assert.deepEqual(Object.fromEntries(seen), Object.fromEntries(Object.entries(left).map(([id, server]) => [id, { server, client: { title: "mine", budget: "mine" }, state: "open" }])));
  }
});

test("conflicts that were asked for before access was lost do not come back with it", async () => {
  for (const how of ["all", "a part"]) {
    const w = new Slow();
    const told = { id: "c-1", state: "open", entity: { type: "payroll", id: "p1" }, op_id: "o-1", kind: "field", server_version: 1, created_at: 1 };
    const fields = [{ name: "salary", client: 5, server: 9, conflict: true }];
    w.hub.open = [{ ...told, fields } as never];
    w.keep("/conflicts");
    await w.live();
    assert.equal(w.late, 1);
    // Of what may be read still, the hub tells when it is asked again.
    const other = { ...told, id: "c-2", entity: { type: "task", id: "t1" }, fields: [{ name: "title", client: "a", server: "b", conflict: true }] };
    w.hub.open = [other as never];
    if (how === "all") w.hub.refuse = (what) => (what.includes("/conflicts") ? "forbidden" : undefined);
    w.hub.tell(how === "all" ? GONE : NARROWER);
    await w.let();
    const left = how === "all" ? [] : [{ title: "b" }];
    assert.deepEqual(w.project.conflicts().map(({ server }) => server), left, how);
    assert.equal((await w.storage.disk.list("conflicts", "")).length, left.length, how);
  }
});

test("what of an entity that is followed alone may not be read any more goes from its conflict, and from no other", async () => {
  const w = new Slow();
  await w.live();
  w.leave();
  w.project.follow("task", "t1");
  await settle();
  await conflicted(w);
  w.hub.tell({ type: "gone", room: "entity:p:task:t1", reason: "access_lost" } as never);
  await settle();
  assert.deepEqual(await theirs(w), { "c-1": {}, "c-2": { title: "theirs", budget: "theirs" } });
});

test("a clean-up of copies that nobody opens leaves conflicts as they are", async () => {
  const w = await new Slow().live();
  await conflicted(w);
  w.leave();
  w.clock.skew = 40 * 86_400_000;
  assert.equal((await cleanUp(w.client)).projects, 1);
  assert.deepEqual((await theirs(w))["c-1"], { title: "theirs", budget: "theirs" });
});

test("a room that is refused for another reason purges nothing", async () => {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  w.hub.refuse = (what) => (what === "project:p" ? "limit_exceeded" : undefined);
  w.hub.cut();
  await w.clock.advance(2000);
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1"], "denied"]);
});

test("access lost in the middle of the first copy, or learnt in the background, purges what is here", async () => {
  const w = new Slow();
  for (const id of ["t1", "t2", "t3"]) w.hub.write("task", id, { title: id });
  w.hub.pageRows = 1;
  w.hub.refuse = (what) => (what.endsWith("/changes") && w.hub.requests.length > 2 ? "forbidden" : undefined);
  await w.live();
  assert.deepEqual([await w.held(), w.project.state.get()], [[], "denied"]);
  const v = await new Slow(w.hub).start();
  w.hub.refuse = () => undefined;
  await v.project.stream.pull();
  assert.equal((await v.held()).length, 3);
  w.hub.refuse = forbidden;
  const { complete, error } = await syncNow(v.client);
  assert.deepEqual([complete, error], [true, undefined]);
  assert.deepEqual([await v.held(), v.project.replica.cursor], [[], undefined]);
});

test("a page that was asked for before all access was lost brings nothing back", async () => {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  w.hub.deliver = (frame) => frame.type !== "change";
  w.hub.write("task", "t2", { title: "two" });
  w.keep();
  const pulled = w.project.stream.pull().catch((error: Error) => error.message);
  await settle();
  assert.equal(w.late, 1);
  w.hub.refuse = forbidden;
  w.hub.tell(GONE);
  await w.let();
  assert.equal(await pulled, "no", "it was not asked for again");
  assert.deepEqual([await w.held(), w.project.replica.cursor, w.project.state.get()], [[], undefined, "denied"]);
});

test("changes on their way into the copy when all access is lost do not reach it", async () => {
  const w = await new Slow().live();
  w.hub.write("task", "t1", { title: "one" });
  w.hub.refuse = forbidden;
  w.hub.tell(GONE);
  await w.clock.advance(1000);
  assert.deepEqual([await w.held(), w.project.replica.cursor, w.project.state.get()], [[], undefined, "denied"]);
});

test("access that is lost while changes are being stored stays lost", async () => {
  const w = await new Slow().live();
  w.storage.fault = () => {
    w.storage.fault = undefined;
    w.hub.tell(GONE);
    return undefined;
  };
  w.hub.write("task", "t1", { title: "one" });
  await settle();
  assert.deepEqual([await w.held(), w.project.state.get()], [[], "denied"]);
});

test("a part that is lost while changes are being stored takes none of those behind them along", async () => {
  const w = await new Slow().live();
  w.storage.fault = () => {
    w.storage.fault = undefined;
    w.hub.write("task", "t2", { title: "two" });
    w.hub.tell(NARROWER);
    return undefined;
  };
  w.hub.write("task", "t1", { title: "one" });
  await settle();
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1", "task:t2"], "live"]);
});

test("what was decided, and waits only for its change, does not wait for it after all access is lost", async () => {
  const w = await new Slow().live();
  w.hub.deliver = (frame) => frame.type !== "change";
  await w.project.insert("task", { title: "one" }, { id: "t1" }).synced;
  assert.deepEqual(w.project.replica.ops.map(({ state }) => state), ["settled"]);
  w.hub.tell(GONE);
  await settle();
  assert.deepEqual([w.project.replica.ops, await w.titles()], [[], []]);
});

test("access that is lost and granted in one breath ends with all of it", async () => {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  w.hub.tell(GONE);
  w.hub.tell({ type: "access", projects: { p: { role: "editor" } } } as never);
  await settle();
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1"], "live"]);
});

test("a purge that cannot be stored is made up for", async () => {
  const w = new Slow();
  w.hub.write("payroll", "p1", { salary: 1 });
  w.hub.write("task", "t1", { title: "one" });
  w.hub.scope = "all";
  await w.live();
  w.storage.fault = () => new Error("disk");
  w.hub.unread.add("payroll");
  w.hub.scope = "less";
  w.hub.tell(NARROWER);
  await settle();
  w.storage.fault = undefined;
  await w.clock.advance(5000);
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1"], "live"]);
});

test("what was read to mend the copy before a part was lost is not kept", async () => {
  const w = new Slow();
  w.hub.write("payroll", "p1", { salary: 1 });
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  await w.project.replica.transact(async (change) => change.dropRow("payroll", "p1"));
  w.keep("buckets=");
  const verified = verify(w.project);
  await settle();
  assert.equal(w.late, 1);
  w.hub.unread.add("payroll");
  w.hub.tell(NARROWER);
  await w.let();
  await verified;
  assert.deepEqual(await w.held(), ["task:t1"]);
});

test("a page that was asked for before a clean-up does not stand for what that removed", async () => {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one" });
  await w.live();
  w.client.disconnect();
  w.project.stream.stop();
  w.hub.write("task", "t2", { title: "two" });
  await w.clock.advance(31 * 86_400_000);
  w.keep();
  const pulled = w.project.stream.pull();
  await settle();
  assert.equal((await cleanUp(w.client)).projects, 1);
  await w.let();
  await pulled;
  assert.deepEqual(await w.held(), ["task:t1", "task:t2"]);
});

test("a page that was asked for before a part was lost is asked for again", async () => {
  const w = new Slow();
  w.hub.write("payroll", "p1", { salary: 1 });
  await w.live();
  w.hub.deliver = (frame) => frame.type !== "change";
  w.hub.write("payroll", "p2", { salary: 2 });
  w.hub.write("task", "t1", { title: "one" });
  w.keep();
  void w.project.stream.pull();
  await settle();
  w.hub.unread.add("payroll");
  w.hub.tell(NARROWER);
  await w.let();
  assert.deepEqual([await w.held(), w.project.replica.cursor?.seq], [["task:t1"], 3]);
});

test("changes on their way into the copy when a part is lost do not reach it, and nothing else is missed", async () => {
  const w = await new Slow().live();
  w.hub.write("payroll", "p1", { salary: 1 });
  w.hub.write("task", "t1", { title: "one" });
  w.hub.unread.add("payroll");
  w.hub.tell(NARROWER);
  w.hub.write("task", "t2", { title: "two" });
  await w.clock.advance(1000);
  assert.deepEqual([await w.held(), w.project.state.get()], [["task:t1", "task:t2"], "live"]);
});

test("an entity that was asked for before it was lost is not kept", async () => {
  const w = new Slow();
  w.hub.write("payroll", "p1", { salary: 1 });
  await w.live();
  w.keep();
  const fetched = w.project.fetch("payroll", "p1").catch((error: Error) => error.message);
  await settle();
  w.hub.refuse = (what) => (what.includes("payroll") ? "forbidden" : undefined);
  w.hub.tell(NARROWER);
  await w.let();
  assert.equal(await fetched, "no");
  assert.deepEqual(await w.held(), []);
});

/** A client that follows one entity without its project, and has read another by itself. */
async function alone(): Promise<Slow> {
  const w = new Slow();
  w.hub.write("task", "t1", { title: "one", budget: 9 });
  w.hub.write("task", "t2", { title: "two", budget: 9 });
  await w.start();
  w.project.stream.stop();
  await w.online();
  w.project.follow("task", "t1");
  await w.project.fetch("task", "t2");
  await settle();
  assert.deepEqual(await w.held(), ["task:t1", "task:t2"]);
  return w;
}
const ENTITY = "entity:p:task:t1";

test("an entity that is followed alone goes when it is lost, and comes back when it is granted", async () => {
  const w = await alone();
  w.hub.instead = (frame) => frame.type === "write";
  await w.project.update("task", "t1", { title: "waits" }).local;
  w.hub.tell({ type: "gone", room: ENTITY, reason: "access_lost" } as never);
  await settle();
  assert.deepEqual(await w.held(), ["task:t2"]);
  assert.equal(w.project.pending().length, 1);
  w.hub.tell({ type: "access", projects: { p: { role: "editor" } } } as never);
  await settle();
  assert.deepEqual(await w.held(), ["task:t1", "task:t2"]);
});

test("a change on its way when its entity is lost does not bring that back", async () => {
  const w = await alone();
  w.hub.write("task", "t1", { title: "uno" });
  w.hub.tell(w.hub.change(w.hub.log.at(-1)!));
  w.hub.tell({ type: "gone", room: ENTITY, reason: "access_lost" } as never);
  await settle();
  assert.deepEqual(await w.held(), ["task:t2"]);
});

test("an entity that is followed alone goes when its room is refused", async () => {
  const w = await alone();
  w.hub.refuse = (what) => (what === ENTITY || what.endsWith("/t1") ? "forbidden" : undefined);
  w.hub.cut();
  await w.clock.advance(2000);
  assert.deepEqual(await w.held(), ["task:t2"]);
});

test("fields that a followed entity loses go, and those it gains are fetched, without a change of its version", async () => {
  const w = await alone();
  w.hub.tell({ type: "gone", room: ENTITY, reason: "scope_changed", fields: { task: ["budget"] } } as never);
  await settle();
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "one" });
  w.hub.tell({ type: "resync", room: ENTITY, reason: "scope_changed" } as never);
  await settle();
  assert.deepEqual((await w.project.get("task", "t1"))?.fields, { title: "one", budget: 9 });
});

test("a followed entity of a hub that went back to a backup is what the backup has", async () => {
  const w = await alone();
  w.hub.write("task", "t1", { title: "uno" });
  w.hub.tell(w.hub.change(w.hub.log.at(-1)!));
  await settle();
  assert.deepEqual((await w.project.get("task", "t1"))?.version, 3);
  w.hub.entities.set("task:t1", { version: 1, deleted: false, fields: { title: "one" } });
  w.hub.tell({ type: "resync", room: ENTITY, reason: "epoch_changed" } as never);
  await settle();
  const entity = await w.project.get("task", "t1");
  assert.deepEqual([entity?.version, entity?.fields], [1, { title: "one" }]);
});
