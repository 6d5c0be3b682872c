/** What several parts of an app use at once ends with the last of them. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { room } from "../src/presence.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

/** The rooms joined and left, in order. */
const rooms = ({ hub }: World) =>
  hub.heard.flatMap((frame) => {
    if (frame.type === "subscribe") return frame.rooms.map((joined) => `+${joined.room}`);
    return frame.type === "unsubscribe" ? frame.rooms.map((left) => `-${left}`) : [];
  });

test("a project is followed until the last one who follows it stops", async () => {
  const w = await new World().start();
  w.leave();
  const [first, second] = [w.project.subscribe(), w.project.subscribe()];
  await w.online();
  first();
  first();
  await settle();
  w.hub.write("task", "t1", { title: "one" });
  await settle();
  assert.deepEqual(await w.titles(), ["one"]);
  second();
  await settle();
  assert.equal(rooms(w).at(-1), "-project:p");
  assert.equal(w.project.state.get(), "behind", "what nobody follows grows old");
  const third = w.project.subscribe();
  await settle();
  assert.deepEqual([rooms(w).at(-1), w.project.state.get()], ["+project:p", "live"]);
  third();
});

test("a view of an entity stays true for whoever still looks at it", async () => {
  const w = await new World().start();
  const task = w.project.watch("task", "t1");
  const first = task.subscribe(() => {});
  task.subscribe(() => {});
  first();
  first();
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  assert.equal(task.get().data?.fields["title"], "one");
});

test("an ephemeral room is left by the last one who is in it", async () => {
  const w = await (await new World().start()).online();
  const [first, second] = [room(w.client, "p", "plan").join(), room(w.client, "p", "plan").join()];
  await settle();
  first();
  first();
  await settle();
  assert.deepEqual(rooms(w).slice(1), ["+room:p:plan"]);
  second();
  await settle();
  assert.deepEqual(rooms(w).slice(1), ["+room:p:plan", "-room:p:plan"]);
});

test("who comes back while the hub still answers the first one is let in", async () => {
  const w = await (await new World().start()).online();
  w.leave();
  await settle();
  const held: (() => void)[] = [];
  w.hub.instead = (frame, socket) => {
    if (frame.type !== "subscribe") return false;
    const left = held.length === 0;
    const answer = { room: "project:p", seq: 0, epoch: w.hub.epoch, recovered: true };
    const error = { code: "not_subscribed", message: "it was left while it was being joined" };
    held.push(() => socket.tell({ type: "subscribed", id: frame.id, rooms: [left ? { room: "project:p", error } : answer] } as never));
    return true;
  };
  const leave = w.project.subscribe();
  await settle();
  leave();
  w.project.subscribe();
  await settle();
  assert.equal(held.length, 2, "it asks anew");
  held[0]!();
  await settle();
  assert.equal(w.project.state.get(), "behind");
  held[1]!();
  await settle();
  assert.equal(w.project.state.get(), "live");
});
