/** Rooms after a lost connection. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { room } from "../src/presence.js";
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
