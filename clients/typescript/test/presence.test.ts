/** Who is in a room, as frames tell it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../src/client.js";
import { room } from "../src/presence.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";
import { World } from "./support/world.js";

const HERE = "room:p:plan";

test("a whole list replaces what was known, and the differences are told", async () => {
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  const plan = room<{ at: number }>(client, "p", "plan");
  plan.join();
  await client.connect();
  await settle();
  const told: unknown[] = [];
  plan.on("joined", ({ user, state }) => told.push(["joined", user, state.at]));
  plan.on("updated", ({ user, state }) => told.push(["updated", user, state.at]));
  plan.on("left", ({ user }) => told.push(["left", user]));
  const tell = (frame: object) => hub.tell({ type: "presence", room: "room:p:plan", ...frame } as never);
  tell({ joined: [{ user: "bo", state: { at: 1 } }, { user: "cy", state: { at: 1 } }, { user: "di", state: { at: 1 } }], users: 3 });
  // That cy left was lost on the way.
  told.length = 0;
  tell({ members: [{ user: "bo", state: { at: 2 } }, { user: "di", state: { at: 1 } }, { user: "ed", state: { at: 1 } }], users: 900 });
  assert.deepEqual(told, [["left", "cy"], ["updated", "bo", 2], ["joined", "ed", 1]]);
  const { members, users, joined } = plan.presence.get();
  assert.deepEqual([[...members.keys()], users, joined], [["bo", "di", "ed"], 900, true]);
  tell({ members: [], users: 0 });
  assert.equal(plan.presence.get().members.size, 0);
  await client.close();
});

test("who comes and goes while the room is being joined is not lost to the list of its answer", async () => {
  const w = new World();
  const plan = room<number>((await w.start()).client, "p", "plan");
  const told: unknown[] = [];
  for (const what of ["joined", "left"] as const) plan.on(what, ({ user }) => told.push([what, user]));
  const tell = (frame: object) => w.hub.tell({ type: "presence", room: HERE, ...frame } as never);
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe" || frame.rooms[0]?.room !== HERE) return false;
    tell({ joined: [{ user: "ana", state: 1 }, { user: "bo", state: 1 }], users: 3 });
    tell({ left: ["bo"], updated: [{ user: "ana", state: 2 }], users: 2 });
    // Read before that.
    const presence = { users: 1, members: [{ user: "cy", state: 1 }] };
    socket.tell({ type: "subscribed", id: frame.id, rooms: [{ room: HERE, presence }] } as never);
    return true;
  };
  await w.online();
  plan.join();
  await settle();
  assert.deepEqual([...plan.presence.get().members], [["cy", 1], ["ana", 2]]);
  assert.deepEqual([plan.presence.get().users, plan.presence.get().joined], [2, true]);
  assert.deepEqual(told, [["joined", "ana"], ["joined", "bo"], ["left", "bo"], ["joined", "cy"]]);
  // What was told before a reconnect is older than the next list.
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe" || !frame.rooms.some(({ room: name }) => name === HERE)) return false;
    const rooms = frame.rooms.map(({ room: name }) => ({ room: name, seq: 0, epoch: w.hub.epoch, presence: { users: 0, members: [] } }));
    socket.tell({ type: "subscribed", id: frame.id, rooms } as never);
    return true;
  };
  tell({ joined: [{ user: "di", state: 1 }], users: 3 });
  w.hub.cut();
  await w.clock.advance(5000);
  assert.deepEqual([plan.presence.get().members.size, plan.presence.get().joined], [0, true]);
});

type State = { type: "presence"; id: number; room: string; state: unknown };
const states = ({ hub }: World) => hub.heard.filter((frame): frame is never => frame.type === "presence") as State[];

test("states go to the hub no faster than it allows, over all rooms, and the last of each arrives", async () => {
  const w = new World();
  w.hub.limits = { presence_per_second: 20 };
  await (await w.start()).online();
  const rooms = [room<number>(w.client, "p", "plan"), room<number>(w.client, "p", "roof")];
  for (const one of rooms) one.join();
  await settle();
  // A pointer that moves for three seconds.
  for (let at = 1; at <= 180; at++) {
    for (const one of rooms) one.setState(at);
    await w.clock.advance(16);
  }
  const sent = states(w);
  assert.ok(sent.length > 40 && sent.length <= 60, `${sent.length} in three seconds`);
  assert.deepEqual(rooms.map(({ room: name }) => sent.filter((frame) => frame.room === name).length > 20), [true, true]);
  await w.clock.advance(1000);
  const last = rooms.map(({ room: name }) => states(w).filter((frame) => frame.room === name).at(-1)?.state);
  assert.deepEqual(last, [180, 180]);
  const before = states(w).length;
  await w.clock.advance(10_000);
  assert.equal(states(w).length, before);
  // Who is still for a while is seen at once.
  rooms[0]!.setState(181);
  await settle();
  assert.equal(states(w).at(-1)?.state, 181);
});

test("a state that the hub will not take now is sent when it will, as it is then", async () => {
  const w = await (await new World().start()).online();
  const plan = room<number>(w.client, "p", "plan");
  plan.join();
  await settle();
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "presence") return false;
    socket.tell({ type: "error", id: frame.id, code: "rate_limited", message: "slow down", retry_after_ms: 7000 } as never);
    return true;
  };
  plan.setState(1);
  await settle();
  w.hub.instead = undefined;
  plan.setState(2);
  await w.clock.advance(6999);
  assert.deepEqual(states(w).map(({ state }) => state), [1]);
  await w.clock.advance(1);
  assert.deepEqual(states(w).map(({ state }) => state), [1, 2]);
  await w.clock.advance(60_000);
  assert.equal(states(w).length, 2);
});

test("a state that the hub never takes is told to the app, and not sent again until there is another session", async () => {
  const w = await (await new World().start()).online();
  const plan = room<string>(w.client, "p", "plan");
  plan.join();
  await settle();
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "presence") return false;
    socket.tell({ type: "error", id: frame.id, code: "limit_exceeded", message: "the limit `presence_bytes` is 1024" } as never);
    return true;
  };
  plan.setState("x".repeat(2000));
  await w.clock.advance(60_000);
  const { joined, problem } = plan.presence.get();
  assert.deepEqual([joined, problem?.code, problem?.message], [true, "limit_exceeded", "the limit `presence_bytes` is 1024"]);
  assert.equal(states(w).length, 1);
  w.hub.tell({ type: "presence", room: plan.room, joined: [{ user: "bo", state: null }], users: 2 } as never);
  await settle();
  assert.deepEqual([plan.presence.get().users, plan.presence.get().problem?.code], [2, "limit_exceeded"], "it is not shown still");
  w.hub.instead = () => false;
  plan.setState("x");
  await w.clock.advance(1000);
  assert.equal(plan.presence.get().problem, undefined);
  const cyclic: unknown[] = [];
  cyclic.push(cyclic);
  assert.throws(() => plan.setState(cyclic as never), TypeError);
});

test("a state is said again in the next session, and once", async () => {
  const w = await (await new World().start()).online();
  const plan = room<number>(w.client, "p", "plan");
  plan.setState(1);
  await w.clock.advance(1000);
  assert.deepEqual(states(w), []);
  plan.join();
  await w.clock.advance(1000);
  w.hub.cut();
  plan.setState(2);
  await w.clock.advance(5000);
  assert.deepEqual(states(w).map(({ state }) => state), [1, 2]);
});

test("who loses access to a room is not in it any more, and sees nobody, until it is granted again", async () => {
  for (const how of ["gone", "refused"]) {
    const w = await (await new World().start()).online();
    const plan = room<number>(w.client, "p", "plan");
    plan.join();
    await settle();
    w.hub.tell({ type: "presence", room: HERE, joined: [{ user: "bo", state: 1 }], users: 2 } as never);
    plan.setState(1);
    await w.clock.advance(1000);
    const asked = w.hub.heard.length;
    w.hub.refuse = () => "forbidden";
    if (how === "gone") w.hub.tell({ type: "gone", room: HERE, reason: "access_lost" } as never);
    else w.hub.cut();
    await w.clock.advance(5000);
    const { users, members, joined, problem } = plan.presence.get();
    assert.deepEqual([users, [...members], joined, problem?.code], [0, [], false, "forbidden"], how);
    plan.setState(2);
    assert.equal(plan.broadcast("hello"), false);
    await w.clock.advance(1000);
    const said = w.hub.heard.slice(asked).filter(({ type }) => type === "presence" || type === "broadcast");
    assert.deepEqual(said, []);
    w.hub.refuse = () => undefined;
    w.hub.tell({ type: "access", projects: { p: { role: "editor" } } } as never);
    await w.clock.advance(1000);
    assert.deepEqual([plan.presence.get().joined, plan.presence.get().problem, states(w).at(-1)?.state], [true, undefined, 2]);
    assert.equal(plan.broadcast("hello"), true);
  }
});
