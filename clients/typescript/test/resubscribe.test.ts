/** Rooms after a lost connection. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { room } from "../src/presence.js";
import type { ServerFrame } from "../src/protocol/server.gen.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

test("all rooms are joined again in one request, each from its own cursor", async () => {
  const world = await new World().start();
  const { hub, client, clock } = world;
  hub.write("task", "t1", { title: "one" });
  hub.write("task", "t2", { title: "two" });
  (await client.project("q")).subscribe();
  const plan = room(client, "p", "plan");
  plan.join();
  await world.online();
  // The hub tells of `p` alone.
  hub.write("task", "t3", { title: "three" });
  await settle();
  hub.cut();
  hub.heard.splice(0);
  await clock.advance(10_000);
  const { epoch } = hub;
  const rooms = [
    { room: "project:p", since: 3, epoch },
    { room: "project:q", since: 2, epoch },
    { room: "room:p:plan", presence: true },
  ];
  const asked = hub.heard.filter(({ type }) => type === "subscribe");
  assert.deepEqual(asked, [{ type: "subscribe", rooms, id: (asked[0] as { id?: number }).id }]);
  assert.equal(plan.presence.get().joined, true);
});

/** A client whose rooms are refused for the moment, each or all at once; when it asked for them. */
async function refused(how: "each" | "all", retryAfter?: number): Promise<{ world: World; waits: () => number[] }> {
  const world = await new World().start();
  await world.project.stream.pull();
  const { hub, clock } = world;
  clock.chance = 0.5;
  const asked: number[] = [];
  hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe") return false;
    asked.push(clock.now());
    const error = { code: "unavailable", message: "the store is down", ...(retryAfter === undefined ? {} : { retry_after_ms: retryAfter }) };
    const answer = how === "all" ? { type: "error", ...error } : { type: "subscribed", rooms: frame.rooms.map(({ room: name }) => ({ room: name, error })) };
    socket.tell({ id: frame.id, ...answer } as unknown as ServerFrame);
    return true;
  };
  await world.online();
  return { world, waits: () => asked.slice(1).map((at, before) => at - asked[before]!) };
}

for (const how of ["each", "all"] as const) {
  test(`rooms that are refused for the moment, ${how}, are asked for later each time, and not before the hub says`, async () => {
    const { world, waits } = await refused(how);
    await world.clock.advance(100_000);
    assert.deepEqual(waits(), [600, 1100, 2100, 4100, 8100, 16_100, 30_100, 30_100]);
    world.hub.instead = undefined;
    await world.clock.advance(30_100);
    assert.equal(world.project.state.get(), "live");
    const told = await refused(how, 5000);
    await told.world.clock.advance(25_000);
    assert.deepEqual(told.waits(), [5000, 5000, 5000, 5000, 5000].slice(0, told.waits().length));
    assert.ok(told.waits().length >= 4);
  });
}
