/** Views hold what they show as long as somebody looks, and read again what could not be read. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

async function world(): Promise<World> {
  const w = await new World().start();
  await w.project.insert("task", { title: "one" }, { id: "t1" }).local;
  return w;
}
const titles = (live: { get(): { data: { fields: Record<string, unknown> }[] } }) => live.get().data.map(({ fields }) => fields["title"]);

/** How often the store was asked for lists. */
function lists(w: World): () => number {
  let count = 0;
  const { list } = w.storage;
  w.storage.list = (table, prefix) => (count++, list.call(w.storage, table, prefix));
  return () => count;
}

test("a type is listened to while somebody looks at it, and read anew for who comes back", async () => {
  const w = await world();
  const asked = lists(w);
  const [all, some] = [w.project.query("task"), w.project.query("task", { where: ({ id }) => id !== "t1" })];
  const ends = [all.subscribe(() => {}), some.subscribe(() => {}), all.subscribe(() => {})];
  await settle();
  assert.deepEqual([titles(all), titles(some), asked()], [["one"], [], 1]);
  for (const end of ends) end();
  await w.project.insert("task", { title: "two" }, { id: "t2" }).local;
  // Nobody holds it any more: it stays as it was seen last.
  assert.deepEqual([titles(all), titles(some)], [["one"], []]);
  const heard: unknown[] = [];
  all.subscribe(() => heard.push(titles(all)));
  await settle();
  assert.deepEqual([heard.at(-1), asked()], [["one", "two"], 2]);
  await w.project.insert("task", { title: "three" }, { id: "t3" }).local;
  assert.deepEqual([heard.at(-1), asked()], [["one", "two", "three"], 2]);
});

test("who asks without looking on gets what is there now, each time", async () => {
  const w = await world();
  const [all, one] = [w.project.query("task"), w.project.watch("task", "t1")];
  assert.deepEqual([all.get().loading, one.get().loading], [true, true]);
  assert.deepEqual([(await all.ready()).length, (await one.ready())?.fields["title"]], [1, "one"]);
  await w.project.insert("task", { title: "two" }, { id: "t2" }).local;
  await w.project.update("task", "t1", { title: "uno" }).local;
  assert.deepEqual([(await all.ready()).length, (await one.ready())?.fields["title"]], [2, "uno"]);
  assert.deepEqual(titles(all), ["uno", "two"]);
});

test("what was let go of while it was read leaves nothing in memory", async () => {
  const w = await world();
  const all = w.project.query("task");
  all.subscribe(() => {})();
  await settle();
  assert.deepEqual(all.get(), { data: [], loading: true });
});

for (const next of ["look", "ask", "change"] as const) {
  test(`what could not be read is read again with the next ${next}`, async () => {
    const w = await (await world()).restart();
    const { list, get } = w.storage;
    w.storage.list = () => Promise.reject(new Error("disk"));
    w.storage.get = () => Promise.reject(new Error("disk"));
    const views = [w.project.query("task"), w.project.watch("task", "t1")] as const;
    for (const view of views) view.subscribe(() => {});
    await settle();
    for (const view of views) await assert.rejects(view.ready(), /disk/);
    Object.assign(w.storage, { list, get });
    if (next === "look") for (const view of views) view.subscribe(() => {});
    if (next === "ask") for (const view of views) await view.ready();
    if (next === "change") await w.project.update("task", "t1", { done: true }).local;
    await settle();
    const [all, one] = views;
    assert.deepEqual([all.get().loading, titles(all), one.get().loading, one.get().data?.fields["title"]], [false, ["one"], false, "one"]);
  });
}
