/** Every adapter keeps the same promises. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import "fake-indexeddb/auto";
import { compressed, gzip } from "../src/storage/compressed.js";
import { openIndexedDb } from "../src/storage/indexeddb.js";
import { type KeyValue, openKeyValue } from "../src/storage/keyvalue.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { openSqlite } from "../src/storage/sqlite.js";
import { below, key, type Storage } from "../src/storage/storage.js";
import { settle } from "./support/clock.js";
import { ExpoLike } from "./support/sqlite.js";

const directory = mkdtempSync(join(tmpdir(), "syncline-"));
after(() => rmSync(directory, { recursive: true }));
let files = 0;
const file = () => join(directory, `${files++}.db`);

class Texts implements KeyValue {
  readonly texts = new Map<string, string>();
  /** Writes left until it breaks. */
  left = Infinity;
  async getItem(name: string): Promise<string | null> {
    return this.texts.get(name) ?? null;
  }
  async setItem(name: string, value: string): Promise<void> {
    this.write();
    this.texts.set(name, value);
  }
  async removeItem(name: string): Promise<void> {
    this.write();
    this.texts.delete(name);
  }
  async getAllKeys(): Promise<string[]> {
    return [...this.texts.keys()];
  }
  private write(): void {
    if (this.left-- <= 0) throw new Error("the device is gone");
  }
}

const adapters: Record<string, () => Promise<Storage>> = {
  memory: async () => new MemoryStorage(),
  indexeddb: () => openIndexedDb({ name: `db-${Math.random()}` }),
  sqlite: () => openSqlite(new ExpoLike(file())),
  "key-value": () => openKeyValue(new Texts()),
  compressed: async () => compressed(new MemoryStorage(), gzip()!, 100),
};

for (const [name, open] of Object.entries(adapters)) {
  test(`${name}: what was committed is read back, in order, and only below its prefix`, async () => {
    const storage = await open();
    const long = "long ".repeat(500);
    await storage.commit([
      { table: "rows", key: key("p", "task", "b"), value: { n: 2, long } },
      { table: "rows", key: key("p", "task", "a"), value: { n: 1 } },
      { table: "rows", key: key("p", "tasks", "x"), value: { n: 3 } },
      { table: "rows", key: key("p2", "task", "y"), value: { n: 4 } },
      { table: "meta", key: "client", value: "c" },
    ]);
    const tasks = await storage.list("rows", below("p", "task"));
    assert.deepEqual(tasks, [[key("p", "task", "a"), { n: 1 }], [key("p", "task", "b"), { n: 2, long }]]);
    assert.equal((await storage.list("rows", below("p"))).length, 3);
    await storage.commit([{ table: "rows", key: key("p", "task", "a") }, { table: "meta", key: "client", value: "d" }]);
    assert.equal(await storage.get("rows", key("p", "task", "a")), undefined);
    assert.equal(await storage.get("meta", "client"), "d");
    await storage.close();
  });
}

test("indexeddb: a commit that fails leaves nothing behind", async () => {
  const storage = await openIndexedDb({ name: "atomic" });
  const circular = { f: () => {} };
  await assert.rejects(storage.commit([{ table: "meta", key: "a", value: 1 }, { table: "meta", key: "b", value: circular }]));
  assert.equal(await storage.get("meta", "a"), undefined);
});

test("key-value: broken off at any write, a commit is whole or not there", async () => {
  for (let left = 0; left < 6; left++) {
    const texts = new Texts();
    const storage = await openKeyValue(texts);
    await storage.commit([{ table: "rows", key: "a", value: 1 }, { table: "cursors", key: "p", value: 1 }]);
    texts.left = left;
    await storage.commit([{ table: "rows", key: "a", value: 2 }, { table: "cursors", key: "p", value: 2 }]).catch(() => {});
    texts.left = Infinity;
    const again = await openKeyValue(texts);
    const [row, cursor] = [await again.get("rows", "a"), await again.get("cursors", "p")];
    assert.equal(row, cursor, `broken off at write ${left}`);
    assert.equal(row, left === 0 ? 1 : 2);
  }
});

const moved = (n: number) => [
  { table: "rows" as const, key: "a", value: n },
  { table: "rows" as const, key: "b", value: n },
  { table: "cursors" as const, key: "p", value: n },
];

for (const how of ["killed", "failed"] as const) {
  test(`sqlite: ${how} at any statement of a commit, rows and cursor are both old or both new`, async () => {
    const found = [];
    for (let at = 0; at < 6; at++) {
      const path = file();
      const database = new ExpoLike(path);
      const storage = await openSqlite(database);
      await storage.commit(moved(1));
      let statements = 0;
      const broken = new Promise<void>((resolve) => {
        database.before = () => {
          if (statements++ !== at) return;
          resolve();
          if (how === "failed") throw new Error("database or disk is full");
          database.kill();
          return new Promise(() => {});
        };
      });
      const commit = storage.commit(moved(2));
      if (how === "killed") await Promise.race([broken, commit]);
      else await commit.then(() => assert.equal(at, 5), () => {});
      database.before = () => {};
      const again = how === "killed" ? await openSqlite(new ExpoLike(path)) : storage;
      const [a, b, cursor] = [await again.get("rows", "a"), await again.get("rows", "b"), await again.get("cursors", "p")];
      assert.deepEqual([a, b], [cursor, cursor], `${how} at statement ${at}`);
      found.push(cursor);
      await again.close();
    }
    // BEGIN, three statements, COMMIT; the sixth is none of this commit's.
    assert.deepEqual(found, [1, 1, 1, 1, 1, 2]);
  });
}

test("sqlite: a commit is on the disk before it counts, and nobody reads or commits in the midst of it", async () => {
  const database = new ExpoLike(file());
  const storage = await openSqlite(database);
  const seen: string[] = [];
  let release = () => {};
  database.before = (sql) => {
    if (sql === "BEGIN") seen.push(`synchronous ${database.synchronous()}`);
    seen.push(sql.split(" ")[0]!);
    return sql === "COMMIT" ? new Promise<void>((resolve) => (release = resolve)) : undefined;
  };
  const [first, second, read] = [storage.commit(moved(1)), storage.commit(moved(2)), storage.get("cursors", "p")];
  await settle();
  assert.deepEqual(seen, ["synchronous 2", "BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]);
  release();
  await first;
  await settle();
  release();
  await second;
  assert.equal(await read, 2);
});

test("large rows are kept compressed", async () => {
  const inner = new MemoryStorage();
  const value = { text: "the same again ".repeat(1000) };
  await compressed(inner, gzip()!).commit([{ table: "rows", key: "a", value }]);
  assert.ok(JSON.stringify(await inner.get("rows", "a")).length < 1000);
});
