/** What is stored is acknowledged, whichever way it came: an acknowledgement spares the user a push. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { syncNow } from "../src/sync.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

const acks = ({ hub }: World) => hub.heard.flatMap((frame) => (frame.type === "ack" ? [frame.seq] : []));

test("a copy that came over HTTP is acknowledged, though no change follows", async () => {
  const w = new World();
  w.hub.write("task", "t1", { title: "one" });
  w.hub.write("task", "t2", { title: "two" });
  await (await w.start()).online();
  await w.clock.advance(200);
  assert.equal(acks(w).at(-1), 2);
});

test("what was stored right before the connection broke is acknowledged in the next one", async () => {
  const w = await (await new World().start()).online();
  await w.clock.advance(1000);
  w.hub.write("task", "t1", { title: "one" });
  await settle();
  assert.deepEqual([w.project.replica.cursor?.seq, acks(w)], [1, []]);
  w.hub.cut();
  await w.clock.advance(10_000);
  assert.equal(w.client.status.get().connection, "online");
  assert.deepEqual(acks(w), [1]);
});

test("what a gap made the client fetch is acknowledged", async () => {
  const w = await (await new World().start()).online();
  w.hub.deliver = (frame) => frame.type !== "change" || frame.seq !== 1;
  w.hub.write("task", "t1", { title: "lost" });
  w.hub.write("task", "t2", { title: "two" });
  await w.clock.advance(1000);
  assert.equal(acks(w).at(-1), 2);
});

test("what the background fetched is acknowledged as soon as there is a session, whether its project is followed or not", async () => {
  const w = await new World().start();
  w.project.stream.stop();
  await w.project.stream.pull();
  w.hub.write("task", "t1", { title: "one" });
  await syncNow(w.client);
  await w.clock.advance(1000);
  assert.deepEqual([w.project.replica.cursor?.seq, acks(w)], [1, []]);
  await w.online();
  await w.clock.advance(200);
  assert.deepEqual(acks(w), [1]);
  w.hub.write("task", "t2", { title: "two" });
  await syncNow(w.client);
  await w.clock.advance(200);
  assert.deepEqual(acks(w), [1, 2]);
});

test("what another epoch counted is not acknowledged to a hub that went back to a backup", async () => {
  const w = await (await new World().start()).online();
  for (const id of ["t1", "t2", "t3"]) w.hub.write("task", id, {});
  await w.clock.advance(1000);
  assert.deepEqual(acks(w), [3]);
  w.hub.heard.length = 0;
  w.hub.cut();
  // Restored: fewer changes, another epoch, and an answer to the subscription that takes its time.
  w.hub.epoch = "00000000-0000-4000-8000-000000000002";
  w.hub.log.length = 1;
  for (const id of ["t2", "t3"]) w.hub.entities.delete(`task:${id}`);
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe") return false;
    const rooms = frame.rooms.map(({ room }) => ({ room, seq: 1, epoch: w.hub.epoch, resync: "epoch_changed" }));
    w.clock.after(1000, () => socket.tell({ type: "subscribed", id: frame.id, rooms } as never));
    return true;
  };
  await w.clock.advance(10_000);
  assert.equal(w.client.status.get().connection, "online");
  assert.deepEqual([w.project.replica.cursor?.seq, acks(w)], [1, [1]]);
});

test("a project that is not followed acknowledges what was stored in this session or before it, once", async () => {
  const w = await new World().start();
  w.leave();
  w.hub.write("task", "t1", {});
  await w.project.stream.pull();
  await w.online();
  await w.clock.advance(200);
  assert.deepEqual(acks(w), [1]);
  w.hub.cut();
  w.hub.epoch = "00000000-0000-4000-8000-000000000002";
  await w.clock.advance(10_000);
  assert.equal(w.client.status.get().connection, "online");
  assert.deepEqual(acks(w), [1]);
});
