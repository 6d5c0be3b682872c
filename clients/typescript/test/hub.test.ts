/** Clients against the real hub: three instances behind nginx, with PostgreSQL and Redis. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { openCache } from "../src/cache.js";
import { RejectedError } from "../src/errors.js";
import { room } from "../src/presence.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { syncNow } from "../src/sync.js";
import { type Clock, systemClock } from "../src/platform.js";
import { verify } from "../src/verify.js";
import { eventually } from "./support/clock.js";
import { client, closeAll, converge, enter, opened, PIDS, token } from "./support/real.js";

after(closeAll);

test("clients on different instances converge, through edits on all sides and lost connections", async () => {
  const all = await Promise.all(["ana", "bo", "cy"].map((user) => enter(user, "converge")));
  const ids = Array.from({ length: 10 }, (_, at) => `t${at}`);
  for (const id of ids) await all[0]!.project.insert("task", { title: id, hours: 0 }, { id }).synced;
  await converge(all.map(({ project }) => project));
  let edits = 0;
  for (let round = 0; round < 12; round++) {
    for (const [at, { client: one, project }] of all.entries()) {
      if ((round + at) % 4 === 0) one.disconnect();
      if ((round + at) % 4 === 2) void one.connect().catch(() => {});
      const id = ids[(round * 3 + at) % ids.length]!;
      const hours = Number((await project.get("task", id))?.fields["hours"] ?? 0);
      await project.update("task", id, { hours: hours + 1, [`by-${at}`]: round }).local;
      edits++;
    }
  }
  for (const { client: one } of all) await one.connect();
  await converge(all.map(({ project }) => project));
  // Counters merge: not one of the edits was lost or counted twice.
  const hours = (await all[0]!.project.query<{ hours: number }>("task").ready()).map(({ fields }) => fields.hours);
  assert.equal(hours.reduce((sum, one) => sum + one, 0), edits);
});

test("a thousand edits queued offline are sent, in order and once", async () => {
  const storage = new MemoryStorage();
  const offline = await client("ana", "thousand", { storage });
  const project = await offline.project("thousand");
  for (let at = 0; at < 1000; at++) {
    const id = `t${at % 100}`;
    await (at < 100 ? project.insert("task", { n: at }, { id }) : project.update("task", id, { n: at })).local;
  }
  await offline.close();
  const { project: again } = await enter("ana", "thousand", { storage });
  await eventually("all are sent", () => again.pending().length === 0);
  const { project: other } = await enter("bo", "thousand");
  await converge([again, other]);
  const tasks = await other.query<{ n: number }>("task").ready();
  assert.deepEqual(tasks.map(({ fields }) => fields.n).sort((a, b) => a - b), Array.from({ length: 100 }, (_, at) => 900 + at));
  assert.equal(again.replica.cursor?.seq, 1000);
});

test("what is made together takes effect together, or not at all if one of it is refused or conflicts", async () => {
  const { client: one, project } = await enter("ana", "together");
  const { project: other } = await enter("bo", "together");
  const made = project.together(() => [
    project.insert("task", { title: "one", approval: "none" }, { id: "t1" }),
    project.insert("task", { title: "two" }, { id: "t2" }),
  ]);
  assert.deepEqual((await Promise.all(made.map(({ synced }) => synced))).map(({ seq }) => seq), [1, 2]);
  await converge([project, other]);
  one.disconnect();
  await other.update("task", "t1", { approval: "theirs" }).synced;
  const refused = project.together(() => [project.update("task", "t2", { title: "refused" }), project.update("task", "missing", { title: "x" })]);
  const parked = project.together(() => [project.update("task", "t2", { title: "parked" }), project.update("task", "t1", { approval: "mine" })]);
  await Promise.all([...refused, ...parked].map(({ local }) => local));
  const alone = project.insert("task", { title: "alone" }, { id: "t3" });
  await one.connect();
  await alone.synced;
  for (const edit of refused) await assert.rejects(edit.synced);
  await assert.rejects(parked[0]!.synced, RejectedError);
  assert.equal((await parked[1]!.synced).outcome, "conflict");
  const codes = project.pending().map(({ state, problem }) => [state, problem?.code]);
  assert.deepEqual(codes, [["failed", "group_failed"], ["failed", "not_found"], ["failed", "group_failed"]]);
  await eventually("both see the same", async () => (await other.get("task", "t3")) !== undefined && project.replica.cursor?.seq === other.replica.cursor?.seq);
  for (const { fields } of [await project.get("task", "t2"), await other.get("task", "t2")].map((found) => found!)) assert.equal(fields["title"], "two");
  assert.equal((await other.get("task", "t1"))?.fields["approval"], "theirs");
});

test("an instance is killed while edits are under way, and nobody notices but for a moment", async () => {
  const { client: one, project } = await enter("ana", "killed");
  const { project: other } = await enter("bo", "killed");
  const edits = [];
  for (let at = 0; at < 60; at++) {
    edits.push(project.insert("task", { at }, { id: `t${at}` }));
    if (at === 30) {
      await edits[5]!.synced;
      process.kill(PIDS[0]!, "SIGKILL");
    }
  }
  const verdicts = await Promise.all(edits.map(({ synced }) => synced));
  assert.ok(verdicts.every(({ outcome }) => outcome === "applied"));
  await converge([project, other]);
  assert.equal((await other.query("task").ready()).length, 60);
  assert.equal(one.status.get().pending, 0);
});

test("a conflict reaches its author, is resolved, and both agree", async () => {
  const { project: ana } = await enter("ana", "conflict");
  const { client: phone, project: bo } = await enter("bo", "conflict");
  await ana.insert("task", { approval: "none", title: "roof" }, { id: "t1" }).synced;
  await converge([ana, bo]);
  phone.disconnect();
  const parked = bo.update("task", "t1", { approval: "bo" });
  await parked.local;
  await ana.update("task", "t1", { approval: "ana" }).synced;
  await phone.connect();
  assert.equal((await parked.synced).outcome, "conflict");
  await eventually("the conflict is here", () => bo.conflicts()[0]?.state === "open");
  const [conflict] = bo.conflicts();
  assert.deepEqual([conflict?.client["approval"], conflict?.server["approval"]], ["bo", "ana"]);
  await bo.resolve(conflict!.id, { choose: "client" }).synced;
  await eventually("both have bo's", async () => {
    const both = await Promise.all([ana, bo].map((one) => one.get("task", "t1")));
    return both.every((task) => task?.fields["approval"] === "bo");
  });
  await eventually("it is over", () => bo.conflicts()[0]?.state === "resolved");
});

test("a device whose clock is an hour wrong works with the others all the same", async () => {
  const skewed = (by: number): Clock => ({ ...systemClock, now: () => Date.now() + by });
  const { client: wrong, project: late } = await enter("ana", "skew", { clock: skewed(3_600_000) });
  const { project: right } = await enter("bo", "skew");
  await right.insert("task", { title: "one", hours: 1 }, { id: "t1" }).synced;
  await converge([late, right]);
  wrong.disconnect();
  await late.update("task", "t1", { hours: 2 }).local;
  await right.update("task", "t1", { hours: 3 }).synced;
  await wrong.connect();
  await converge([late, right]);
  assert.equal((await right.get("task", "t1"))?.fields["hours"], 4);
});

test("the hub gives a local entity its id, also where others refer to it", async () => {
  const { client: one, project } = await enter("ana", "local");
  one.disconnect();
  const parent = project.insert("task", { title: "parent" }, { id: "local" });
  const child = project.insert("task", { title: "child", parent: parent.id });
  await project.update("task", parent.id, { title: "renamed" }).local;
  await one.connect();
  const { id } = await parent.synced;
  await child.synced;
  await eventually("all is sent", () => project.pending().length === 0);
  assert.equal((await project.get("task", parent.id))?.id, id);
  await eventually("the child refers to it", async () => (await project.get("task", child.id))?.fields["parent"] === id);
  assert.equal((await project.get("task", id))?.fields["title"], "renamed");
});

test("presence comes and goes by user, and is there again after a reconnect", async () => {
  const ana = (await enter("ana", "here")).client;
  const bo = (await enter("bo", "here")).client;
  const mine = room<{ at: number }>(ana, "here", "plan");
  const theirs = room<{ at: number }>(bo, "here", "plan");
  mine.join();
  const leave = theirs.join();
  await eventually("both are in", () => mine.presence.get().joined && theirs.presence.get().joined);
  theirs.setState({ at: 7 });
  await eventually("the state is seen", () => mine.presence.get().members.get("bo")?.at === 7);
  // As a pointer does: far more than the hub takes in so short a time.
  for (let at = 8; at <= 100; at++) theirs.setState({ at });
  await eventually("the last state is seen", () => mine.presence.get().members.get("bo")?.at === 100);
  const heard: unknown[] = [];
  mine.on("event", ({ event, data, from }) => heard.push([event, data, from]));
  theirs.broadcast("typing", { field: "title" });
  await eventually("it is heard", () => heard.length === 1);
  assert.deepEqual(heard, [["typing", { field: "title" }, "bo"]]);
  leave();
  await eventually("bo is gone", () => !mine.presence.get().members.has("bo"));
});

test("the background sends and fetches without a socket; an expired token is replaced on the way", async () => {
  const { project: other } = await enter("bo", "background");
  await other.insert("task", { title: "theirs" }, { id: "t1" }).synced;
  const asked: string[] = [];
  const getToken = (reason: string) => {
    asked.push(reason);
    return token("ana", { background: "editor" }, reason === "initial" ? -60 : 3600);
  };
  const one = await client("ana", "background", { getToken });
  opened.push(one);
  const project = await one.project("background");
  project.subscribe();
  await project.insert("task", { title: "mine" }, { id: "t2" }).local;
  const result = await syncNow(one);
  assert.deepEqual([result.pushed, result.left, result.complete], [1, 0, true]);
  assert.deepEqual(asked, ["initial", "expired"]);
  await converge([project, other]);
});

test("who edits a project without following it sees what became of the edits, and nothing waits", async () => {
  const { project: other } = await enter("bo", "unfollowed");
  await other.insert("task", { title: "roof", hours: 1 }, { id: "t1" }).synced;
  const one = await client("ana", "unfollowed");
  opened.push(one);
  const project = await one.project("unfollowed");
  await one.connect();
  await project.fetch("task", "t1");
  await other.update("task", "t1", { hours: 3, note: "theirs" }).synced;
  const merged = await project.update("task", "t1", { hours: 2 }).synced;
  assert.deepEqual([merged.outcome, merged.fields], ["merged", { hours: 4 }]);
  const parent = project.insert("task", { title: "new" }, { id: "local" });
  await project.insert("task", { parent: parent.id }, { id: "child" }).synced;
  await project.delete("task", (await parent.synced).id).synced;
  await eventually("nothing waits", () => project.replica.ops.length === 0);
  assert.deepEqual((await project.get("task", "t1"))?.fields, { title: "roof", hours: 4 });
  assert.deepEqual((await project.query("task").ready()).map(({ id, pending }) => [id, pending]), [["child", 0], ["t1", 0]]);
  // Followed later, it is as the hub has it to the last field.
  project.subscribe();
  await eventually("it is live", () => project.state.get() === "live");
  assert.equal((await project.get("task", "t1"))?.fields["note"], "theirs");
  assert.deepEqual((await verify(project, { everything: true })).mended, []);
});

test("reads follow the hub's cache policies, and pending edits are never too old", async () => {
  const { project: other } = await enter("bo", "cache");
  await other.insert("task", { title: "one" }, { id: "t1" }).synced;
  let skew = 0;
  const clock: Clock = { ...systemClock, now: () => Date.now() + skew };
  const one = await client("ana", "cache", { clock });
  opened.push(one);
  const project = await one.project("cache");
  const cache = await openCache(one);
  await cache.refresh();
  assert.equal(cache.policy("task").strategy, "CACHE_FIRST");
  assert.equal((await cache.read(project, "task", "t1"))?.fields["title"], "one");
  await other.update("task", "t1", { title: "two" }).synced;
  assert.equal((await cache.read(project, "task", "t1"))?.fields["title"], "one");
  assert.equal((await cache.read(project, "task", "t1", { strategy: "NETWORK_FIRST" }))?.fields["title"], "two");
  await other.update("task", "t1", { title: "three" }).synced;
  skew = (cache.policy("task").ttl + 1) * 1000;
  assert.equal((await cache.read(project, "task", "t1"))?.fields["title"], "three");
  assert.deepEqual(cache.stats().reads, { fresh: 1, stale: 0, misses: 0, fetched: 3 });
  await project.update("task", "t1", { title: "mine" }).local;
  skew = 100 * 86_400_000;
  assert.equal(await cache.evict(project), 0);
  assert.equal((await project.get("task", "t1"))?.fields["title"], "mine");
});
