/**
 * Clients that are killed, or whose disk fails, among others on the real hub: everything converges, nothing is lost
 * and nothing is done twice. The same file is the program that is killed.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { type Clock, systemClock } from "../src/platform.js";
import type { Project } from "../src/project.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { openSqlite } from "../src/storage/sqlite.js";
import type { Put } from "../src/storage/storage.js";
import { verify } from "../src/verify.js";
import { eventually } from "./support/clock.js";
import { FaultyStorage } from "./support/faulty.js";
import { client, closeAll, converge, enter } from "./support/real.js";
import { ExpoLike } from "./support/sqlite.js";

const EDITS = 6;

/** What the killed client does: counts up one task, and adds one of its own with each edit. */
async function story(project: Project): Promise<void> {
  for (let at = 0; at < EDITS; at++) {
    const known = (await project.replica.list("task")).some(({ id }) => id === `own-${at}`);
    if (known) continue;
    const hours = Number((await project.get("task", "shared"))?.fields["hours"] ?? 0);
    // Two edits, two commits: the task tells that its hour was counted.
    await project.update("task", "shared", { hours: hours + 1 }).local;
    await project.insert("task", { title: `own ${at}` }, { id: `own-${at}` }).local;
  }
}

/** As a program: runs the story on a SQLite file and is killed at its `kill`th statement. */
async function child(path: string, name: string, kill: number): Promise<void> {
  const database = new ExpoLike(path);
  let statements = 0;
  database.before = () => {
    if (++statements === kill) process.kill(process.pid, "SIGKILL");
  };
  const one = await client("ana", name, { storage: openSqlite(database) });
  const project = await one.project(name);
  project.subscribe();
  await one.connect();
  await eventually("live", () => project.state.get() === "live");
  await story(project);
  await eventually("all is decided", () => project.replica.ops.length === 0);
  await one.close();
}

if (process.env["SYNCLINE_CRASH"]) {
  const [path, name, kill] = process.env["SYNCLINE_CRASH"].split("|") as [string, string, string];
  await child(path, name, Number(kill));
  process.exit(0);
}

const directory = mkdtempSync(join(tmpdir(), "syncline-"));
after(async () => {
  await closeAll();
  rmSync(directory, { recursive: true });
});

/** All agree with each other, and with the hub to the last field. */
async function converged(projects: Project[]): Promise<void> {
  await converge(projects);
  for (const project of projects) assert.deepEqual((await verify(project, { everything: true })).mended, []);
}

const counted = async (project: Project) => {
  const tasks = await project.query<{ hours?: number }>("task").ready();
  const shared = tasks.find(({ id }) => id === "shared");
  return { hours: shared?.fields.hours, own: tasks.filter(({ id }) => id.startsWith("own-")).length };
};

test("a process killed at any of its statements on the disk begins again where it was", async () => {
  const { project: boss } = await enter("boss", "killed-process");
  await boss.insert("task", { hours: 0 }, { id: "shared" }).synced;
  const path = join(directory, "killed.db");
  let kills = 0;
  // Ever later, through opening, first copy, edits, verdicts and changes; each time on what the last one left.
  for (let kill = 4; ; kill += 9) {
    const env = { ...process.env, SYNCLINE_CRASH: `${path}|killed-process|${kill}`, NODE_TEST_CONTEXT: "" };
    const run = spawn(process.execPath, ["--enable-source-maps", process.argv[1]!], { env, stdio: ["ignore", "ignore", "inherit"] });
    const [code, signal] = (await once(run, "exit")) as [number | null, string | null];
    if (code === 0) break;
    assert.equal(signal, "SIGKILL", `it ended with ${code}`);
    kills++;
  }
  assert.ok(kills >= 5, `killed ${kills} times`);
  await eventually("all its tasks are here", async () => (await counted(boss)).own === EDITS);
  const { hours } = await counted(boss);
  // Killed between its two edits it counts again, and never forgets.
  assert.ok(hours! >= EDITS && hours! <= EDITS + kills, `${hours} hours after ${kills} kills`);
  await converged([boss]);
});

for (const when of ["dead", "after"] as const) {
  test(`killed ${when === "dead" ? "before" : "after"} storing and before acknowledging, at every commit, clients on three instances converge`, async () => {
    const name = `commit-${when}`;
    const { project: boss } = await enter("boss", name);
    await boss.insert("task", { hours: 0, n: 0 }, { id: "shared" }).synced;
    let edits = 0;
    const disk = new MemoryStorage();
    /** What a killed client had stored: as its user was told, or left unsent or undecided as far as it knew. */
    const left = new Set<string>();
    for (let kill = 1; kill <= 12; kill++) {
      const storage = new FaultyStorage(disk);
      let killed = false;
      let commits = 0;
      storage.fault = () => (++commits === kill ? ((killed = true), when) : undefined);
      const one = await Promise.race([client("ana", name, { storage }), eventually("it is killed", () => killed).then(() => undefined)]);
      if (!one) continue;
      const life = (async () => {
        const project = await one.project(name);
        project.subscribe();
        await one.connect();
        await eventually("it is live or dead", () => killed || project.state.get() === "live");
        for (let at = 0; at < 3 && !killed; at++) {
          const id = `${kill}-${at}`;
          // What is on the disk counts, whether its writer heard of it or not.
          if (!(await boss.get("task", id))) await project.insert("task", { n: at }, { id }).local.then(() => left.add(id));
          await boss.update("task", "shared", { n: kill * 10 + at }).synced;
          edits++;
        }
      })();
      await Promise.race([life, eventually("it is killed", () => killed)]);
      one.disconnect();
      for (const [, op] of (await disk.list("ops", "")) as [string, { id: string }][]) left.add(op.id);
    }
    const { project: ana } = await enter("ana", name, { storage: disk });
    await converged([ana, boss]);
    // Whatever reached the disk reached the hub, once.
    for (const id of left) assert.ok(await boss.get("task", id), id);
    assert.ok(edits > 5 && left.size > 3, `${edits} edits, ${left.size} left behind`);
  });
}

test("a disk that fails or is full now and then costs time, and no edit that was stored", async () => {
  const name = "bad-disk";
  const { project: boss } = await enter("boss", name);
  await boss.insert("task", { hours: 0 }, { id: "shared" }).synced;
  const storage = new FaultyStorage();
  // Chance draws the shortest waits: after some failures in a row the longest outlast this test's patience.
  const clock: Clock = { ...systemClock, random: () => 0 };
  const { client: one, project: ana } = await enter("ana", name, { storage, clock, backoff: { min: 10, base: 20, max: 50 } });
  const kinds = { full: 0, broken: 0 };
  let turn = 0;
  storage.fault = (puts: Put[]) => {
    // Verdicts, changes and edits alike, but every third is made.
    if (puts.length === 0 || ++turn % 3 === 0) return undefined;
    if (turn % 3 === 1) return kinds.full++, new DOMException("no room", "QuotaExceededError");
    return kinds.broken++, new Error("I/O error");
  };
  let stored = 0;
  for (let at = 0; at < 12; at++) {
    const made = ana.insert("task", { n: at }, { id: `t${at}` });
    await made.local.then(() => stored++, () => {});
    await boss.update("task", "shared", { n: at }).synced;
  }
  assert.ok(one.status.get().storage);
  storage.fault = undefined;
  await converged([ana, boss]);
  assert.ok(kinds.full > 0 && kinds.broken > 0 && stored > 0 && stored < 12, JSON.stringify({ ...kinds, stored }));
  assert.equal((await boss.query("task").ready()).length, stored + 1);
});

test("a device whose clock is a day ahead does not win over who edits later", async () => {
  const name = "clock-ahead";
  const clock: Clock = { ...systemClock, now: () => Date.now() + 86_400_000 };
  const { client: phone, project: ahead } = await enter("ana", name, { clock });
  const { project: right } = await enter("bo", name);
  await right.insert("task", { latest: "first" }, { id: "t1" }).synced;
  await eventually("it is here", async () => (await ahead.get("task", "t1")) !== undefined);
  phone.disconnect();
  const early = ahead.update("task", "t1", { latest: "earlier, by a clock that is wrong" });
  await early.local;
  // A moment apart, by the hub's clock.
  const edited = Date.now();
  await eventually("it is later", () => Date.now() > edited + 5);
  await right.update("task", "t1", { latest: "later" }).synced;
  await phone.connect();
  assert.equal((await early.synced).outcome, "superseded");
  await converged([ahead, right]);
  assert.equal((await ahead.get("task", "t1"))?.fields["latest"], "later");
  // The other way round the later edit of the wrong clock wins: it is corrected, not ignored.
  phone.disconnect();
  await right.update("task", "t1", { latest: "early" }).synced;
  const again = Date.now();
  await eventually("it is later", () => Date.now() > again + 5);
  const late = ahead.update("task", "t1", { latest: "late" });
  await late.local;
  await phone.connect();
  await late.synced;
  await converged([ahead, right]);
  assert.equal((await right.get("task", "t1"))?.fields["latest"], "late");
});
