/** How long an operation waits that the hub will not take now. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServerFrame } from "../src/protocol/server.gen.js";
import { syncNow } from "../src/sync.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

/** A hub that is overloaded, and when it was asked. */
async function overloaded(chance: number, retryAfter?: number): Promise<{ world: World; waits: () => number[] }> {
  const world = await new World().start();
  const { hub, clock } = await world.online();
  clock.chance = chance;
  const asked: number[] = [];
  hub.instead = (frame, socket) => {
    if (frame.type !== "write") return false;
    asked.push(clock.now());
    const told = retryAfter === undefined ? {} : { retry_after_ms: retryAfter };
    socket.tell({ type: "error", id: frame.id, code: "overloaded", message: "too many writes wait", ...told } as ServerFrame);
    return true;
  };
  return { world, waits: () => asked.slice(1).map((at, before) => at - asked[before]!) };
}

test("the waits double up to a minute, whether or not the hub names one, and end with success", async () => {
  const { world, waits } = await overloaded(0.5);
  const { hub, clock, project } = world;
  const edit = project.insert("task", { title: "one" }, { id: "t1" });
  await clock.advance(300_000);
  assert.deepEqual(waits(), [600, 1100, 2100, 4100, 8100, 16_100, ...Array.from({ length: 8 }, () => 30_100)]);
  const [waiting] = project.pending();
  assert.deepEqual([waiting?.state, waiting?.problem?.code, waiting?.attempts], ["queued", "overloaded", waits().length + 1]);
  const refusing = hub.instead;
  hub.instead = undefined;
  await clock.advance(60_100);
  assert.equal((await edit.synced).outcome, "applied");
  // What comes next begins anew.
  hub.instead = refusing;
  project.update("task", "t1", { title: "two" });
  await settle();
  const before = waits().length;
  await clock.advance(600);
  assert.equal(waits().at(-1), 600);
  assert.equal(waits().length, before + 1);
});

for (const [chance, least, most] of [[0, 100, 100], [0.999999, 1100, 60_100]] as const) {
  test(`drawing ${chance} waits from ${least} to ${most} ms`, async () => {
    const { world, waits } = await overloaded(chance);
    world.project.insert("task", {}, { id: "t1" });
    await world.clock.advance(least + 1);
    assert.deepEqual(waits(), [least]);
    await world.clock.advance(400_000);
    assert.equal(waits().at(-1), most);
  });
}

test("a wait that the hub names is the least", async () => {
  const { world, waits } = await overloaded(0, 5000);
  world.project.insert("task", {}, { id: "t1" });
  await world.clock.advance(15_001);
  assert.deepEqual(waits(), [5000, 5000, 5000]);
});

test("a hub that wants to be left alone is sent nothing of all that waits, until it says", async () => {
  const { world, waits } = await overloaded(0, 5000);
  const { hub, clock, project } = world;
  // More than one request holds.
  const edits = Array.from({ length: 450 }, (_, at) => project.insert("task", {}, { id: `t${at}` }));
  await Promise.all(edits.map(({ local }) => local));
  await settle();
  project.insert("sos", {}, { priority: "critical" });
  await clock.advance(4900);
  assert.deepEqual(waits(), []);
  await clock.advance(100);
  assert.deepEqual(waits(), [5000]);
  hub.instead = undefined;
  await clock.advance(5000);
  assert.deepEqual([hub.head, project.pending().length], [451, 0]);
});

test("a hub that is overloaded over HTTP is not asked on in the same sync, and may be over the socket", async () => {
  const world = await new World().start();
  const { hub, clock, project, client } = world;
  hub.refuse = (what) => (what.endsWith("/ops") ? "overloaded" : undefined);
  const edits = Array.from({ length: 450 }, (_, at) => project.insert("task", {}, { id: `t${at}` }));
  await Promise.all(edits.map(({ local }) => local));
  const { pushed, left, complete } = await syncNow(client);
  assert.deepEqual([pushed, left, complete], [0, 450, false]);
  assert.equal(hub.requests.filter((path) => path.endsWith("/ops")).length, 1);
  await world.online();
  await clock.advance(100);
  assert.equal(hub.head, 450);
});

test("what is not answered waits alone: others are sent at once", async () => {
  const world = await (await new World().start()).online();
  const { hub, clock, project } = world;
  let swallowed = 0;
  hub.instead = ({ type }) => type === "write" && swallowed++ === 0;
  project.insert("task", {}, { id: "t1" });
  await settle();
  project.insert("task", {}, { id: "t2" });
  await clock.advance(30_000);
  assert.deepEqual(hub.log.map(({ id }) => id), ["t2"]);
  await clock.advance(1100);
  assert.deepEqual(hub.log.map(({ id }) => id), ["t2", "t1"]);
});
