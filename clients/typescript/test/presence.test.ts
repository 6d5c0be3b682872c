/** Who is in a room, as frames tell it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../src/client.js";
import { room } from "../src/presence.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

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
