/**
 * The hub's own frames, as its tests write them to `schema/frames.json`, and what the client makes of them: what the
 * hub names anew is missed here.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { RejectedError, RequestError } from "../src/errors.js";
import { room } from "../src/presence.js";
import type { ClientFrame } from "../src/protocol/client.gen.js";
import type { EntityState, ServerFrame } from "../src/protocol/server.gen.js";
import { settle } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";
import { World } from "./support/world.js";

type Of<Kind> = Extract<ServerFrame, { type: Kind }>;

interface Golden {
  frames: ServerFrame[];
  problems: { status: number }[];
  states: EntityState[];
}

const golden = JSON.parse(readFileSync("schema/frames.json", "utf8")) as Golden;
const PROJECT = "site-7";
const CONFLICT = "0192f0c1-0000-7000-8000-0000000000c1";

/** A client that has what was before the frames: the log up to 4711, and one task. */
class Device extends World {
  constructor() {
    super(new FakeHub());
    this.hub.log.length = 4711;
    this.hub.entities.set("task:t1", { version: 4711, deleted: false, fields: { budget: 1, hours: 5 } });
  }

  static async online(): Promise<Device> {
    const device = new Device();
    await device.start();
    device.project = await device.client.project(PROJECT);
    device.project.subscribe();
    await device.online();
    return device;
  }

  /** Says it as it is. */
  async hear(frame: ServerFrame): Promise<void> {
    this.hub.tell(frame);
    await settle();
  }

  /** Answers frames of one type with a golden one, under the id that was asked with. */
  answer(type: ClientFrame["type"], frame: ServerFrame): void {
    this.hub.instead = (asked, socket) => {
      if (asked.type !== type) return false;
      socket.tell({ ...frame, id: (asked as { id?: number }).id } as ServerFrame);
      return true;
    };
  }

  ask(frame: { type: "unsubscribe"; rooms: string[] }): Promise<ServerFrame> {
    return this.client.parts.connection.ask(frame);
  }
}

/** What comes of each kind of frame; a kind that is not here does not compile. */
const SAID: { [Kind in ServerFrame["type"]]: (frames: Of<Kind>[]) => Promise<void> } = {
  async connected([full, bare]) {
    const device = new Device();
    device.answer("connect", full!);
    await device.start({ user: "ana" });
    await device.client.connect();
    assert.deepEqual([full!.user, device.client.status.get().user], ["ana", "ana"]);
    const hello = device.client.parts.connection.hello!;
    assert.deepEqual([hello.limits["ops_per_write"], hello.ttl, hello.ping_interval], [500, 3600, 25]);
    assert.deepEqual([hello.session, hello.server_time, hello.projects[PROJECT]?.role], ["2a00000001", 1_764_000_000_000, "editor"]);
    assert.deepEqual([bare!.id, bare!.projects], [undefined, {}]);
  },
  async refreshed([full, bare]) {
    assert.deepEqual([full!.id, full!.ttl, bare!.id, bare!.ttl], [5, 3600, undefined, 3600]);
  },
  async token_expiring([frame]) {
    const device = await Device.online();
    await device.hear(frame!);
    assert.equal(device.hub.heard.at(-1)?.type, "refresh");
    assert.equal(frame!.ttl, 60);
  },
  async access([frame]) {
    const device = await Device.online();
    const heard: unknown[] = [];
    device.client.on("access", (projects) => heard.push(projects));
    await device.hear(frame!);
    assert.deepEqual(heard, [{ [PROJECT]: { role: "editor" }, "site-9": null }]);
  },
  async goodbye([frame]) {
    const device = await Device.online();
    await device.clock.advance(1000);
    await device.hear(frame!);
    device.hub.cut(4000, frame!.reason);
    await settle();
    assert.equal(device.clock.next, 2381);
    assert.equal(frame!.resume, true);
  },
  async pong([full, bare]) {
    assert.deepEqual([full!.id, bare!.id], [5, undefined]);
  },
  async error([full, bare]) {
    const device = await Device.online();
    device.answer("unsubscribe", full!);
    const error = await device.ask({ type: "unsubscribe", rooms: [] }).catch((error: unknown) => error);
    assert.ok(error instanceof RequestError);
    assert.deepEqual([error.code, error.message], ["limit_exceeded", "the limit `rooms` is 200"]);
    assert.deepEqual([error.retryAfterMs, error.detail], [1500, { limit: "rooms", value: 200 }]);
    assert.deepEqual([bare!.code, bare!.retry_after_ms, bare!.detail], ["forbidden", undefined, undefined]);
  },
  async subscribed([full, bare]) {
    const device = new Device();
    device.answer("subscribe", full!);
    await device.start();
    device.project = await device.client.project(PROJECT);
    device.project.subscribe();
    const plan = room(device.client, PROJECT, "plan");
    plan.join();
    await device.online();
    assert.equal(plan.presence.get().joined, true);
    // A `resync` was told: all is read again, from 0.
    assert.ok(device.hub.requests.filter((asked) => asked.includes("since=0")).length > 1);
    const [joined, , refused] = full!.rooms as unknown as [Record<string, never>, unknown, { error: { code: string } }];
    assert.deepEqual([joined["seq"], joined["scope"], joined["recovered"]], [4712, "1f0c9a5e7d3b2846", true]);
    assert.deepEqual([joined["epoch"], joined["resync"]], ["0b8f5c9e-6f1a-4c39-9d4e-2a7f2d1f8a10", "cursor_too_old"]);
    assert.deepEqual(joined["presence"], { users: 2, members: [{ user: "ana", state: { at: 3 } }, { user: "bo", state: null }] });
    assert.equal(refused.error.code, "limit_exceeded");
    assert.deepEqual(bare!.rooms, []);
  },
  async unsubscribed([full, bare]) {
    const device = await Device.online();
    device.answer("unsubscribe", full!);
    assert.equal((await device.ask({ type: "unsubscribe", rooms: [] })).type, "unsubscribed");
    assert.equal(bare!.id, undefined);
  },
  async event([full, bare]) {
    const device = await Device.online();
    const heard: unknown[] = [];
    room(device.client, PROJECT, "plan").on("event", (event) => heard.push(event));
    for (const frame of [full!, bare!]) await device.hear(frame);
    assert.deepEqual(heard, [
      { event: "typing", data: { field: "title" }, from: "ana" },
      { event: "typing", data: undefined, from: undefined },
    ]);
  },
  async presence([full, bare]) {
    const device = await Device.online();
    const { presence } = room(device.client, PROJECT, "plan");
    for (const frame of [full!, bare!]) {
      await device.hear(frame);
      const { users, members } = presence.get();
      assert.deepEqual([users, [...members]], [2, [["ana", { at: 3 }], ["bo", null]]]);
    }
    const { members: _all, ...changes } = full!;
    await device.hear({ ...changes, left: ["bo"], updated: [{ user: "ana", state: { at: 4 } }] });
    assert.deepEqual([...presence.get().members], [["ana", { at: 4 }]]);
    assert.deepEqual([full!.joined, full!.left, full!.updated], [[{ user: "ana", state: { at: 3 } }], ["cy"], [{ user: "bo", state: null }]]);
  },
  async resync([frame]) {
    const device = await Device.online();
    device.hub.requests.splice(0);
    await device.hear(frame!);
    assert.match(device.hub.requests[0]!, /changes\?.*since=0/);
    assert.equal(frame!.reason, "epoch_changed");
  },
  async gone([less, all]) {
    const device = await Device.online();
    device.hub.instead = () => true;
    await device.hear(less!);
    assert.deepEqual((await device.project.get("task", "t1"))?.fields, { hours: 5 });
    await device.hear({ ...less!, except: [] });
    assert.equal(await device.project.get("task", "t1"), undefined);
    const other = await Device.online();
    await other.hear(all!);
    assert.equal(await other.project.get("task", "t1"), undefined);
    assert.deepEqual([less!.reason, all!.reason, all!.types], ["scope_changed", "access_lost", undefined]);
  },
  async written([full, bare]) {
    const device = await Device.online();
    const [lost, refused] = full!.verdicts;
    const first = device.project.update("task", "t1", { hours: 6 });
    const second = device.project.update("task", "t1", { hours: 7 });
    device.answer("write", { ...full!, verdicts: [{ ...lost!, op_id: first.opId }, { ...refused!, op_id: second.opId }] });
    const verdict = await first.synced;
    assert.deepEqual([verdict.outcome, verdict.id, verdict.local_id, verdict.fields], ["superseded", "t1", "local:a", { hours: 9 }]);
    assert.deepEqual([verdict.seq, verdict.version, verdict.code, verdict.conflict], [4713, 4714, "fields", CONFLICT]);
    assert.match(verdict.message!, /stands/);
    await assert.rejects(second.synced, RejectedError);
    // `current` is of a later version, and says that it is gone.
    assert.equal(await device.project.get("task", "t1"), undefined);
    const [conflict] = device.project.conflicts();
    assert.deepEqual([conflict?.id, conflict?.serverDeleted, conflict?.serverVersion], [CONFLICT, true, 4712]);
    assert.deepEqual([full!.project, bare!.verdicts, bare!.id], [PROJECT, [], undefined]);
  },
  async ok([frame]) {
    const device = await Device.online();
    device.answer("unsubscribe", frame!);
    assert.equal((await device.ask({ type: "unsubscribe", rooms: [] })).type, "ok");
  },
  async change([update, deletion, hidden]) {
    for (const [frame, fields] of [[update!, { budget: 7, hours: 5 }], [deletion!, undefined], [hidden!, { budget: 1, hours: 5 }]] as const) {
      const device = await Device.online();
      await device.hear(frame);
      const task = await device.project.get("task", "t1");
      assert.deepEqual([task?.fields, device.project.replica.cursor?.seq], [fields, 4712]);
      assert.deepEqual([frame.prev, frame.version, frame.entity.type, frame.entity.id], [4711, 4712, "task", "t1"]);
    }
    assert.deepEqual([update!.kind, deletion!.kind, deletion!.fields], ["update", "delete", undefined]);
    assert.deepEqual([update!.actor, update!.at, update!.op_id], ["ana", 1_764_000_000_000, "o1"]);
    assert.deepEqual([hidden!.actor, hidden!.at, hidden!.op_id], [undefined, undefined, undefined]);
  },
  async advance([frame]) {
    const device = await Device.online();
    await device.hear({ ...frame!, seq: frame!.seq - 1 });
    await device.hear(frame!);
    assert.equal(device.project.replica.cursor?.seq, 4713);
  },
  async notification([full, bare]) {
    const device = await Device.online();
    const heard: Of<"notification">[] = [];
    device.client.on("notification", (notification) => heard.push(notification));
    for (const frame of [full!, bare!]) await device.hear(frame);
    assert.equal(heard.length, 1, "one id is shown once");
    const { nid, project, seq, title, body, data, link, lane, category, at } = heard[0]!;
    assert.deepEqual([nid, project, seq, title, body], ["n1", PROJECT, 4712, "Done: roof", "by ana"]);
    assert.deepEqual([data, link, lane, category, at], [{ task: "t1" }, "app://task/t1", "high", "done", 1_764_000_000_000]);
    assert.deepEqual([bare!.data, bare!.link, bare!.category, bare!.lane], [undefined, undefined, undefined, "normal"]);
  },
  async conflict([resolved, open]) {
    const device = await Device.online();
    await device.hear(open!);
    assert.equal(device.client.status.get().conflicts, 1);
    const [known] = device.project.conflicts();
    const { id, state, type, entity, opId, client, server, serverDeleted, serverVersion, fields, at } = known!;
    assert.deepEqual([id, state, type, entity, opId, client, server], [CONFLICT, "open", "task", "t1", "o1", {}, {}]);
    assert.deepEqual([serverDeleted, serverVersion, fields, at], [true, 4712, [], 1_764_000_000_000]);
    await device.hear(resolved!);
    assert.equal(device.client.status.get().conflicts, 0);
    const [now] = device.project.conflicts();
    assert.deepEqual([now?.state, now?.client, now?.server, now?.fields], ["resolved", { approval: "ana" }, { approval: "bo" }, ["approval"]]);
    const { user, base, op_kind, outcome, strategy, resolved_at, resolved_by } = resolved!.conflict;
    assert.deepEqual([user, resolved!.conflict.client, base, op_kind], ["ana", "phone-1", 4711, "update"]);
    assert.deepEqual([outcome, strategy, resolved_at, resolved_by], ["conflict", "manual", 1_764_000_001_000, "o3"]);
    const [approval, title] = resolved!.conflict.fields;
    assert.deepEqual([approval?.was, approval?.result, approval?.strategy], [null, "ana", "manual"]);
    assert.deepEqual([title?.conflict, title && "was" in title, title && "client" in title], [false, false, false]);
  },
  async verdict([full, bare]) {
    assert.deepEqual([full!.project, full!.verdict.op_id, full!.verdict.outcome], [PROJECT, "o1", "superseded"]);
    assert.deepEqual([bare!.verdict.op_id, bare!.verdict.outcome, bare!.verdict.id], ["o2", "rejected", "local:b"]);
  },
};

for (const [kind, check] of Object.entries(SAID)) {
  test(`what the hub says as \`${kind}\` is understood`, async () => {
    const frames = golden.frames.filter(({ type }) => type === kind);
    assert.ok(frames.length > 0, "the hub says no such thing");
    await check(frames as never);
  });
}

test("the hub says nothing that is not here", () => {
  assert.deepEqual(golden.frames.filter(({ type }) => !(type in SAID)), []);
});

test("problem details are understood", async () => {
  const device = await Device.online();
  const errors: unknown[] = [];
  for (const problem of golden.problems) {
    const answer = { ok: false, status: problem.status, headers: { get: () => null }, text: async () => JSON.stringify(problem) };
    const client = await new World().start({ fetch: async () => answer });
    errors.push(await client.client.parts.http.get("/").catch((error: unknown) => error));
  }
  assert.deepEqual(errors.map((error) => error instanceof RequestError && [error.code, error.message, error.detail]), [
    ["limit_exceeded", "the limit `rooms` is 200", { limit: "rooms", value: 200 }],
    ["forbidden", "the token does not grant this", undefined],
  ]);
  await device.client.close();
});

test("entities over HTTP are understood", async () => {
  const [gone, living] = golden.states;
  const device = await Device.online();
  device.hub.entities.set("task:t2", living as never);
  assert.deepEqual((await device.project.fetch("task", "t2"))?.fields, { done: true });
  device.hub.entities.set("task:t2", gone as never);
  assert.equal(await device.project.fetch("task", "t2"), undefined);
});
