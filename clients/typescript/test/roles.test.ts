/** Roles that change under clients, on the real hub: narrower, wider, gone and back, live and offline. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Client, createClient } from "../src/client.js";
import { RejectedError } from "../src/errors.js";
import { room } from "../src/presence.js";
import type { Project } from "../src/project.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { verify } from "../src/verify.js";
import { eventually } from "./support/clock.js";
import { admin, closeAll, EDGE, enter, openSocket, token } from "./support/real.js";

const open: Client[] = [];
after(() => Promise.all([closeAll(), ...open.map((one) => one.close())]));

/** `boss` has filled the project; `ana` is in it with the role that is stored of her. */
async function staffed(name: string, role: string): Promise<{ boss: Project; ana: Project; phone: Client }> {
  await admin("PUT", `/projects/${name}/members/ana`, { role });
  const made = [];
  for (const user of ["boss", "ana"]) {
    const one = await createClient({ url: EDGE, getToken: () => token(user, { [name]: "editor" }), user, openSocket, hints: () => () => {} });
    open.push(one);
    const project = await one.project(name);
    if (user === "boss") {
      await one.connect();
      await project.insert("task", { title: "roof", budget: 9 }, { id: "t1" }).synced;
      await project.insert("payroll", { salary: 5 }, { id: "p1" }).synced;
    }
    project.subscribe();
    await one.connect();
    await eventually(`${user} is live`, () => project.state.get() === "live");
    made.push({ one, project });
  }
  return { boss: made[0]!.project, ana: made[1]!.project, phone: made[1]!.one };
}

/** What is on the device, and what of it the user sees. */
async function held(project: Project): Promise<Record<string, unknown>> {
  const rows = await project.replica.rows();
  return Object.fromEntries(rows.filter(({ deleted }) => !deleted).map(({ type, id, fields }) => [`${type}:${id}`, fields]));
}
const until = async (project: Project, wanted: Record<string, unknown>) => {
  let last: unknown;
  const same = async () => {
    last = await held(project);
    try {
      assert.deepEqual(last, wanted);
      return project.state.get() === "live";
    } catch {
      return false;
    }
  };
  await eventually("the copy is what the role reads", same).catch((error: Error) => {
    throw new Error(`${error.message}: ${project.state.get()} ${JSON.stringify(last)} is not ${JSON.stringify(wanted)}`);
  });
};

const ALL = { "task:t1": { title: "roof", budget: 9 }, "payroll:p1": { salary: 5 } };
const LESS = { "task:t1": { title: "roof" } };

for (const live of [true, false]) {
  const when = live ? "while the client is there" : "while it is away";

  test(`what a role reads no more is purged, and pending edits stay, ${when}`, async () => {
    const name = `narrow-${live}`;
    const { ana, phone } = await staffed(name, "payroll");
    await until(ana, ALL);
    // An edit that cannot leave: it waits, whatever becomes of what it stands on.
    const { via } = ana.outbox;
    ana.outbox.via = () => undefined;
    await ana.update("payroll", "p1", { salary: 6 }).local;
    const task = ana.update("task", "t1", { title: "roof, west" });
    await task.local;
    if (!live) phone.disconnect();
    const told: unknown[] = [];
    phone.on("access", (projects) => told.push(projects[name]?.role));
    await admin("PUT", `/projects/${name}/members/ana`, { role: "worker" });
    if (!live) await phone.connect();
    await until(ana, LESS);
    if (live) await eventually("the role is told", () => told.includes("worker"));
    assert.deepEqual(ana.pending().map(({ type, state }) => [type, state]), [["payroll", "queued"], ["task", "queued"]]);
    assert.equal((await ana.get("task", "t1"))?.fields["title"], "roof, west");
    ana.outbox.via = via;
    ana.outbox.kick();
    assert.equal((await task.synced).outcome, "applied");
    // What is forbidden now waits for its user in the failed lane.
    await eventually("the other failed", () => ana.pending().map(({ type, state }) => `${type} ${state}`).join() === "payroll failed");
    await until(ana, { "task:t1": { title: "roof, west" } });
    assert.deepEqual((await verify(ana, { everything: true })).mended, []);
  });

  test(`what a role reads now is fetched, ${when}`, async () => {
    const name = `wide-${live}`;
    const { ana, boss, phone } = await staffed(name, "worker");
    await until(ana, LESS);
    await ana.update("task", "t1", { note: "kept" }).synced;
    if (!live) phone.disconnect();
    await admin("PUT", `/projects/${name}/members/ana`, { role: "payroll" });
    if (!live) await phone.connect();
    await until(ana, { "task:t1": { title: "roof", budget: 9, note: "kept" }, "payroll:p1": { salary: 5 } });
    // And it follows what it gained.
    await boss.update("payroll", "p1", { salary: 7 }).synced;
    await until(ana, { "task:t1": { title: "roof", budget: 9, note: "kept" }, "payroll:p1": { salary: 7 } });
    assert.deepEqual((await verify(ana, { everything: true })).mended, []);
  });

  test(`who is taken out keeps their own unsent work alone, and who is let in again has it all, ${when}`, async () => {
    const name = `out-${live}`;
    const { ana, phone } = await staffed(name, "payroll");
    await until(ana, ALL);
    const { via } = ana.outbox;
    ana.outbox.via = () => undefined;
    const mine = ana.insert("task", { title: "mine" }, { id: "t2" });
    await mine.local;
    const plan = room(phone, name, "plan");
    plan.join();
    await eventually("she is in the room", () => plan.presence.get().members.has("ana"));
    if (!live) phone.disconnect();
    await admin("DELETE", `/projects/${name}/members/ana`);
    if (!live) await phone.connect();
    await eventually("she is out", () => ana.state.get() === "denied");
    await eventually("nothing is left of it", async () => (await ana.replica.rows()).length === 0);
    assert.equal(ana.replica.cursor, undefined);
    await eventually("she sees nobody", () => plan.presence.get().problem?.code === "forbidden" && plan.presence.get().members.size === 0);
    assert.deepEqual((await ana.query("task").ready()).map(({ id }) => id), ["t2"]);
    if (!live) phone.disconnect();
    await admin("PUT", `/projects/${name}/members/ana`, { role: "payroll" });
    if (!live) await phone.connect();
    await until(ana, ALL);
    await eventually("she is in the room again", () => plan.presence.get().joined);
    ana.outbox.via = via;
    ana.outbox.kick();
    assert.equal((await mine.synced).outcome, "applied");
    await until(ana, { ...ALL, "task:t2": { title: "mine" } });
  });
}

test("what an administrator tries again leaves the failed lane of the device", async () => {
  const { ana } = await staffed("again", "worker");
  const edit = ana.insert("payroll", { salary: 1 }, { id: "p9" });
  await assert.rejects(edit.synced, RejectedError);
  assert.deepEqual(ana.pending().map(({ state }) => state), ["failed"]);
  await admin("PUT", "/projects/again/members/ana", { role: "payroll" });
  await admin("POST", "/projects/again/sync/failed/retry", { user: "ana" });
  await eventually("it is decided, and its change is here", () => ana.replica.ops.length === 0);
  assert.deepEqual((await ana.get("payroll", "p9"))?.fields, { salary: 1 });
});

test("what its user discarded, an administrator cannot try again, also if the device was offline and started anew", async () => {
  const name = "discarded";
  const storage = new MemoryStorage();
  await admin("PUT", `/projects/${name}/members/ana`, { role: "worker" });
  const { project: boss } = await enter("boss", name);
  const { client: phone, project } = await enter("ana", name, { storage });
  const edits = ["p1", "p2", "p3"].map((id) => project.insert("payroll", { salary: 6 }, { id }));
  for (const { synced } of edits) await assert.rejects(synced, RejectedError);
  await project.discard(edits[0]!.opId);
  const waiting = async (one: Client) => {
    const { failed } = await one.parts.http.get<{ failed: { op_id: string }[] }>(`/v1/sync/failed?project=${name}`);
    return failed.map(({ op_id }) => op_id);
  };
  await eventually("the hub heard of it", async () => !(await waiting(phone)).includes(edits[0]!.opId));
  phone.disconnect();
  await project.discard(edits[1]!.opId);
  await phone.close();
  const { client: again } = await enter("ana", name, { storage });
  await eventually("the hub heard of the other", async () => (await waiting(again)).length === 1);
  await admin("POST", `/projects/${name}/sync/failed/retry`, { user: "ana", role: "editor" });
  await eventually("what is left is tried", async () => (await boss.get("payroll", "p3")) !== undefined);
  assert.deepEqual([await boss.get("payroll", "p1"), await boss.get("payroll", "p2")], [undefined, undefined]);
});

test("what an administrator tried again while the device was away leaves its failed lane with the next session", async () => {
  const name = "tried-again";
  const { boss, ana, phone } = await staffed(name, "worker");
  const edit = ana.insert("payroll", { salary: 6 }, { id: "p2" });
  const still = ana.insert("payroll", { salary: 7 }, { id: "p3" });
  await assert.rejects(edit.synced, RejectedError);
  await assert.rejects(still.synced, RejectedError);
  phone.disconnect();
  await admin("POST", `/projects/${name}/sync/failed/retry`, { user: "ana", op_ids: [edit.opId], role: "editor" });
  await eventually("it is applied", async () => (await boss.get("payroll", "p2"))?.fields["salary"] === 6);
  await phone.connect();
  await eventually("it left the lane", () => !ana.pending().some(({ opId }) => opId === edit.opId));
  assert.deepEqual(ana.pending().map(({ opId, state, problem }) => [opId, state, problem?.code]), [[still.opId, "failed", "forbidden"]]);
  assert.equal(await boss.get("payroll", "p3"), undefined);
});
