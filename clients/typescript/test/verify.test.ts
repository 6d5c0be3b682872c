/** The copy is compared with the hub by checksums, and what differs is read anew. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { Row } from "../src/model.js";
import { below } from "../src/storage/storage.js";
import { adds, bucketOf, verify } from "../src/verify.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

test("the sums are those that docs/PROTOCOL.md shows, which the hub's own tests share", () => {
  const text = readFileSync("../../docs/PROTOCOL.md", "utf8");
  const section = text.slice(text.indexOf("## Checksums"), text.indexOf("## Cache policies"));
  const lines = [...section.matchAll(/^\| `(.+)` \| `(.+)` \| (\d+) \| (\d+) \| `(.+)` \|$/gm)];
  assert.equal(lines.length, 4);
  for (const [, type, id, version, bucket, sum] of lines) {
    assert.equal(bucketOf(type!, id!), Number(bucket));
    assert.equal(adds(type!, id!, Number(version)).toString(16).padStart(16, "0"), sum);
  }
});

async function filled(): Promise<World> {
  const w = new World();
  for (let at = 0; at < 40; at++) w.hub.write(at % 4 === 0 ? "note" : "task", `t${at}`, { title: `t${at}`, tags: [{ a: 1, b: 2 }] });
  w.hub.write("task", "t39", null);
  return (await w.start()).online();
}

/** The store as it is, without what memory keeps. */
const kept = async (w: World) => {
  const rows = (await w.storage.disk.list("rows", below("p"))) as [string, Row][];
  return new Map(rows.filter(([, row]) => !row.deleted).map(([, { type, id, version, fields }]) => [`${type}:${id}`, { version, fields }]));
};
const there = (w: World) =>
  new Map([...w.hub.entities].filter(([, { deleted }]) => !deleted).map(([key, { version, fields }]) => [key, { version, fields }]));

/** Spoils rows behind the client's back. */
async function spoil(w: World, type: string, id: string, change: (row: Row) => Row | undefined): Promise<void> {
  const name = `${below("p")}${type}\u001f${id}`;
  const row = ((await w.storage.disk.get("rows", name)) ?? { type, id, version: 1, fields: {}, at: 0, gen: 1 }) as Row;
  await w.storage.disk.commit([{ table: "rows", key: name, value: change(row) }]);
}

test("a right copy costs one request; rows of another version, missing ones and those too many are mended", async () => {
  const w = await filled();
  w.hub.requests.length = 0;
  assert.deepEqual(await verify(w.project), { head: 41, entities: 39, buckets: [], mended: [] });
  assert.deepEqual(w.hub.requests, ["GET /v1/projects/p/checksum"]);
  await spoil(w, "task", "t1", (row) => ({ ...row, version: 1, fields: { title: "old" } }));
  // A version from nowhere would keep every later change out.
  await spoil(w, "task", "t2", (row) => ({ ...row, version: 9_000_000, fields: { title: "new" } }));
  await spoil(w, "note", "t4", () => undefined);
  await spoil(w, "note", "stray", (row) => row);
  await spoil(w, "task", "t39", () => ({ type: "task", id: "t39", version: 40, fields: { title: "undead" }, at: 0, gen: 1 }));
  await w.project.update("task", "t1", { title: "mine" }).local;
  const pending = (await w.storage.disk.list("ops", "")).length;
  const cursor = w.project.replica.cursor;
  w.hub.requests.length = 0;
  w.hub.pageRows = 1;
  const found = await verify(w.project);
  assert.deepEqual(Object.fromEntries(found.mended.map(({ id, was }) => [id, was])), {
    t1: "changed",
    t2: "changed",
    t4: "missing",
    stray: "extra",
    t39: "extra",
  });
  const buckets = new Set([["task", "t1"], ["task", "t2"], ["note", "t4"], ["note", "stray"], ["task", "t39"]].map(([type, id]) => bucketOf(type!, id!)));
  assert.deepEqual(new Set(found.buckets), buckets);
  // Only these buckets, and `begun` goes back with every further page.
  const pages = w.hub.requests.filter((path) => path.includes("/changes"));
  for (const page of pages) assert.deepEqual(new Set(new URL(`http://x${page.slice(4)}`).searchParams.get("buckets")!.split(",").map(Number)), buckets);
  assert.ok(pages.length > 1 && pages.slice(1).every((page) => page.includes("begun=41")), pages.join("\n"));
  assert.deepEqual(await kept(w), there(w));
  assert.equal((await w.storage.disk.list("ops", "")).length, pending);
  assert.equal(w.project.replica.cursor, cursor);
  assert.deepEqual((await verify(w.project)).buckets, []);
});

test("pending edits stay, over what was mended", async () => {
  const w = await filled();
  w.client.disconnect();
  await w.project.update("task", "t1", { title: "mine" }).local;
  await w.project.update("task", "t2", { title: "mine, too" }).local;
  await w.project.insert("task", { title: "new" }, { id: "fresh" }).local;
  await spoil(w, "task", "t1", (row) => ({ ...row, version: 1, fields: { title: "old" } }));
  await spoil(w, "task", "t2", () => undefined);
  const before = await w.storage.disk.list("ops", "");
  assert.equal((await verify(w.project)).mended.length, 2);
  assert.deepEqual(await w.storage.disk.list("ops", ""), before);
  const titles = await w.titles();
  for (const title of ["mine", "mine, too", "new"]) assert.ok(titles.includes(title), title);
});

test("what only the fields show is found when everything is read; types can be named", async () => {
  const w = await filled();
  await spoil(w, "task", "t1", (row) => ({ ...row, fields: { title: "tampered" } }));
  await spoil(w, "note", "t4", (row) => ({ ...row, fields: { title: "tampered" } }));
  assert.deepEqual((await verify(w.project)).mended, []);
  const tasks = await verify(w.project, { types: ["task"], everything: true });
  assert.deepEqual(tasks.mended, [{ type: "task", id: "t1", was: "changed" }]);
  assert.equal(tasks.buckets.length, 64);
  assert.equal(tasks.entities, 29);
  await verify(w.project, { everything: true });
  assert.deepEqual(await kept(w), there(w));
});

test("what arrives while it is mended is kept, and is no fault", async () => {
  const w = await filled();
  await spoil(w, "task", "t1", () => undefined);
  const same = "task";
  // Others of the same bucket, written once its state was read and before it is stored.
  const neighbours = Array.from({ length: 2000 }, (_, at) => `n${at}`).filter((id) => bucketOf(same, id) === bucketOf(same, "t1")).slice(0, 2);
  const { fetch } = w.hub;
  let moved = false;
  Object.assign(w.client.parts.http, {
    fetch: async (url: string, init: never) => {
      const answer = await fetch(url, init);
      if (url.includes("buckets=") && !moved) {
        moved = true;
        w.hub.write(same, neighbours[0]!, { title: "born meanwhile" });
        w.hub.write(same, "t1", { title: "edited meanwhile" });
        await settle();
      }
      return answer;
    },
  });
  const { mended } = await verify(w.project);
  assert.ok(moved);
  assert.deepEqual(mended, []);
  assert.deepEqual(await kept(w), there(w));
  assert.equal(w.project.replica.cursor?.seq, 43);
});

test("a copy that is behind is brought up to date first; one of another role is not mended by halves", async () => {
  const w = await filled();
  w.client.disconnect();
  w.hub.write("task", "late", { title: "late" });
  assert.deepEqual((await verify(w.project)).mended, []);
  assert.deepEqual(await kept(w), there(w));
  await spoil(w, "task", "t1", () => undefined);
  const { fetch } = w.hub;
  let asked = 0;
  // The role changes for good between the sums and the rows.
  Object.assign(w.client.parts.http, {
    fetch: (url: string, init: never) => {
      if (url.includes("buckets=") && asked++ === 0) w.hub.scope = "other";
      return fetch(url, init);
    },
  });
  assert.deepEqual((await verify(w.project)).mended, [{ type: "task", id: "t1", was: "missing" }]);
  assert.equal(asked, 2);
  assert.deepEqual(await kept(w), there(w));
});
