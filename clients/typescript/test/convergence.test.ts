/**
 * Devices that edit whatever they like, online and offline, while connections break, apps restart and an instance is
 * killed: in the end there is one state, and each edit took effect once or not at all, as its verdict says.
 *
 * A seed is a schedule, not a run: SYNCLINE_TEST_SEED=… replays it, SYNCLINE_TEST_SEEDS=… is how many are tried.
 */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Client } from "../src/client.js";
import type { Fields } from "../src/model.js";
import type { Edit, EditOptions } from "../src/outbox.js";
import type { Project } from "../src/project.js";
import type { ServerChangeFrame } from "../src/protocol/server.gen.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { verify } from "../src/verify.js";
import { eventually } from "./support/clock.js";
import { Instance } from "./support/instance.js";
import { client } from "./support/real.js";
import { readLog, Tape } from "./support/tape.js";

const { SYNCLINE_TEST_SEED, SYNCLINE_TEST_SEEDS } = process.env;
const FIRST = Number(SYNCLINE_TEST_SEED ?? Math.floor(Math.random() * 1e9));
const SEEDS = Number(SYNCLINE_TEST_SEEDS ?? (SYNCLINE_TEST_SEED === undefined ? 3 : 1));
const STEPS = 200;
/** What all know by the same id. */
const COMMON = ["a", "b", "c", "d"];
/** Never deleted and never in a conflict that parks: its counter and its set add up. */
const SHARED = "shared";

/** Numbers below 1 that a seed decides (mulberry32). */
function drawn(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** One installation, over all lives of its app. */
class Device {
  client!: Client;
  project!: Project;
  /** What it made under names of its own, which mean nothing to others. */
  readonly own: string[] = [];
  private readonly storage = new MemoryStorage();

  constructor(
    readonly name: string,
    private readonly user: string,
    private readonly of: string,
    private readonly tape: Tape,
  ) {}

  async start(): Promise<this> {
    const openSocket = this.tape.opener(this.name);
    this.client = await client(this.user, this.of, { storage: this.storage, openSocket, backoff: { min: 10, base: 50, max: 300 } });
    this.project = await this.client.project(this.of);
    this.project.subscribe();
    return this;
  }

  connect(): void {
    void this.client.connect().catch(() => {});
  }

  /** Only what failed for good is left. */
  get settled(): boolean {
    return this.project.replica.ops.every(({ state }) => state === "failed");
  }

  /** Its copy, tombstones aside: who never saw an entity need not know that it is gone. */
  async rows(): Promise<unknown[]> {
    const all = await this.project.replica.rows();
    return all.filter(({ deleted }) => !deleted).map(({ type, id, version, fields }) => [type, id, version, fields]);
  }
}

/** What a schedule does, one step after another. */
class Schedule {
  readonly tape = new Tape();
  readonly devices: Device[];
  readonly made: string[] = [];
  private readonly random: () => number;
  private count = 0;

  constructor(
    seed: number,
    readonly project: string,
    private readonly instance: Instance,
  ) {
    this.random = drawn(seed);
    // One of the users has two devices.
    const users = { phone: "ana", tablet: "ana", bo: "bo", cy: "cy" };
    this.devices = Object.entries(users).map(([name, user]) => new Device(name, user, project, this.tape));
  }

  async run(): Promise<void> {
    for (const device of this.devices) await device.start();
    const [first] = this.devices;
    first!.connect();
    for (const id of COMMON) this.keep(first!.project.insert("task", { title: id, hours: 1, tags: [] }, { id }));
    await this.keep(first!.project.insert("task", { hours: 100, tags: [] }, { id: SHARED })).synced;
    for (const device of this.devices) {
      device.connect();
      await eventually("everybody has it", async () => (await device.project.get("task", SHARED)) !== undefined);
    }
    const killed = this.below(STEPS);
    const back = killed + this.below(STEPS - killed);
    for (let step = 0; step < STEPS; step++) {
      if (step === killed) this.instance.kill();
      await this.step(this.pick(this.devices));
      if (step === back) await this.instance.restart();
    }
  }

  private async step(device: Device): Promise<void> {
    const { project } = device;
    const id = this.id(device);
    const priority = this.pick(["critical", "high", "normal", "normal"] as const);
    await this.choose([
      [3, async () => device.client.disconnect()],
      [5, async () => device.connect()],
      [2, async () => this.tape.cut(device.name)],
      [1, async () => {
        await device.client.close();
        await device.start();
      }],
      // Something happens meanwhile, if it can.
      [4, () => eventually("who is online sends", () => device.settled || device.client.status.get().connection !== "online")],
      [2, () => this.create(device, { priority })],
      [12, async () => this.keep(project.update("task", id, await this.fields(device, id), { priority })).local],
      [6, async () => this.keep(project.update("task", SHARED, await this.shared(device), { priority })).local],
      [1, async () => this.keep(project.delete("task", id, { priority })).local],
      [2, async () => this.keep(project.insert("task", { title: `again ${this.count++}`, hours: 1 }, { id })).local],
      [2, () => this.group(device, id)],
      [3, () => this.resolve(device)],
    ]);
  }

  private async create(device: Device, options: EditOptions): Promise<void> {
    const parent = this.id(device);
    const edit = this.keep(device.project.insert("task", { title: `new ${this.count++}`, hours: 1, parent }, { ...options, id: "local" }));
    device.own.push(edit.id);
    await edit.local;
  }

  /** One field of each strategy and kind, or several. */
  private async fields(device: Device, id: string): Promise<Fields> {
    const seen = (await device.project.get("task", id))?.fields ?? {};
    const list = (name: string) => (Array.isArray(seen[name]) ? (seen[name] as unknown[]) : []);
    const text = `${this.count++}`;
    const all: [string, unknown][] = [
      ["title", text],
      ["front", text],
      ["latest", text],
      ["approval", text],
      ["hours", Number(seen["hours"] ?? 0) + 1 + this.below(5)],
      ["best", this.below(1000)],
      ["notes", [...list("notes"), text]],
      ["tags", [...list("tags").slice(this.below(2)), text]],
      ["parent", this.id(device)],
    ];
    return Object.fromEntries(Array.from({ length: 1 + this.below(3) }, () => this.pick(all)));
  }

  private async shared({ project }: Device): Promise<Fields> {
    const { hours, tags } = (await project.get<{ hours: number; tags: string[] }>("task", SHARED))!.fields;
    const kept = this.random() < 0.3 ? tags.slice(1) : tags;
    return this.random() < 0.5 ? { hours: hours + this.below(9) - 3 } : { hours: hours + 1, tags: [...kept, `tag ${this.count++}`] };
  }

  private async group(device: Device, id: string): Promise<void> {
    const { project } = device;
    const shared = await this.shared(device);
    const edits = project.together(() => [
      project.update("task", id, { title: `g${this.count++}` }),
      project.update("task", SHARED, shared),
    ]);
    for (const edit of edits) await this.keep(edit).local;
  }

  private async resolve({ project }: Device): Promise<void> {
    const open = project.conflicts().filter(({ state }) => state === "open");
    if (open.length === 0) return;
    await this.keep(project.resolve(this.pick(open).id, { choose: this.pick(["client", "server"]) })).local;
  }

  private id({ own }: Device): string {
    return this.pick([...COMMON, ...own.slice(-2)]);
  }

  private keep(edit: Edit): Edit {
    this.made.push(edit.opId);
    return edit;
  }

  private below(limit: number): number {
    return Math.floor(this.random() * limit);
  }

  private pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  private async choose(from: readonly (readonly [weight: number, act: () => Promise<unknown>])[]): Promise<void> {
    let left = this.random() * from.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, act] of from) if ((left -= weight) < 0) return void (await act());
  }
}

/** Whether the log holds what the verdicts say, once, and nothing else. */
function audit(log: ServerChangeFrame[], { tape, made }: Schedule): void {
  assert.deepEqual(tape.changed, []);
  assert.deepEqual(log.map(({ seq }) => seq), log.map((_, at) => at + 1));
  const known = new Map(log.map((entry) => [entry.op_id, entry]));
  assert.equal(known.size, log.length, "an operation is in the log twice");
  for (const opId of made) {
    const verdict = tape.verdicts.get(opId);
    assert.ok(verdict, `${opId} has no verdict`);
    assert.equal(known.get(opId)?.seq, verdict.seq, JSON.stringify(verdict));
    if (verdict.outcome === "applied") assert.ok(verdict.seq !== undefined, JSON.stringify(verdict));
    known.delete(opId);
  }
  assert.deepEqual([...known], [], "nobody made this");
}

/** What the shared task has to be: each difference that was asked for and granted, once. */
function expected({ tape }: Schedule): { hours: number; tags: string[] } {
  let hours = 100;
  const [added, removed] = [new Set<string>(), new Set<string>()];
  for (const { op_id, id, kind, fields, was } of tape.sent.values()) {
    if (id !== SHARED || kind !== "update" || tape.verdicts.get(op_id)?.seq === undefined) continue;
    if (fields?.["hours"] !== undefined) hours += Number(fields["hours"]) - Number(was?.["hours"]);
    const [now, before] = [fields?.["tags"], was?.["tags"]] as [string[]?, string[]?];
    for (const tag of now ?? []) if (!before?.includes(tag)) added.add(tag);
    for (const tag of now ? (before ?? []) : []) if (!now?.includes(tag)) removed.add(tag);
  }
  return { hours, tags: [...added].filter((tag) => !removed.has(tag)).sort() };
}

const instance = new Instance(2);
after(() => instance.end());

for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
  test(`devices converge: SYNCLINE_TEST_SEED=${seed}`, async () => {
    const name = `seed-${seed}`;
    const schedule = new Schedule(seed, name, instance);
    const { devices, tape } = schedule;
    const open = [...devices];
    try {
      await schedule.run();
      await instance.restart();
      for (const device of devices) device.connect();
      await eventually("everything is decided", () => devices.every(({ settled }) => settled), 60_000);
      audit(await readLog(name), schedule);
      for (const { project } of devices) for (const { opId } of project.pending()) await project.discard(opId);
      const fresh = new Device("fresh", "dee", name, tape);
      open.push(fresh);
      (await fresh.start()).connect();
      await eventually("the fresh one is live", () => fresh.project.state.get() === "live", 60_000);
      const state = await fresh.rows();
      for (const device of devices) {
        await eventually(`${device.name} has caught up`, () => device.project.replica.cursor?.seq === fresh.project.replica.cursor?.seq);
        assert.deepEqual(await device.rows(), state, device.name);
        assert.deepEqual(device.project.replica.ops, []);
        assert.deepEqual((await verify(device.project, { everything: true })).mended, []);
      }
      const shared = await fresh.project.get<{ hours: number; tags: string[] }>("task", SHARED);
      assert.deepEqual({ hours: shared?.fields.hours, tags: [...(shared?.fields.tags ?? [])].sort() }, expected(schedule));
      const counts: Record<string, number> = {};
      for (const { outcome } of tape.verdicts.values()) counts[outcome] = (counts[outcome] ?? 0) + 1;
      console.log(`seed ${seed}: ${schedule.made.length} edits, ${JSON.stringify(counts)}`);
    } finally {
      for (const { client: one } of open) await one?.close();
    }
  });
}
