/** A browser that closes the database, deletes it, or hands it to another tab. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { forceCloseDatabase } from "fake-indexeddb";
import "fake-indexeddb/auto";
import { StorageError } from "../src/errors.js";
import { openIndexedDb } from "../src/storage/indexeddb.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

/** The databases that were opened, to be closed as a browser does. */
class Factory extends IDBFactory {
  readonly opened: IDBDatabase[] = [];
  override open(name: string, version?: number): IDBOpenDBRequest {
    const request = super.open(name, version);
    request.addEventListener("success", () => this.opened.push(request.result));
    return request;
  }

  /** Without a word to the app, as when the disk is gone for a moment. */
  close(): void {
    forceCloseDatabase(this.opened.at(-1)! as never);
  }

  /** As another tab, or the settings of the browser, do. */
  async delete(name: string): Promise<void> {
    await new Promise((resolve) => (this.deleteDatabase(name).onsuccess = resolve));
  }
}

const versions = async (factory: IDBFactory) => (await factory.databases()).map(({ version }) => version);

test("a database that the browser closed is opened again with the next use", async () => {
  const factory = new Factory();
  const storage = await openIndexedDb({ factory });
  await storage.commit([{ table: "meta", key: "a", value: 1 }]);
  for (let round = 0; round < 2; round++) {
    factory.close();
    await settle();
    assert.deepEqual(await Promise.all([storage.get("meta", "a"), storage.list("meta", "")]), [1, [["a", 1]]]);
  }
  // Once for all who use it.
  assert.equal(factory.opened.length, 3);
  factory.close();
  await settle();
  await storage.commit([{ table: "meta", key: "a", value: 2 }]);
  assert.equal(await storage.get("meta", "a"), 2);
  await storage.close();
  await assert.rejects(storage.get("meta", "a"), /closed/);
});

test("one that cannot be opened again for the moment is tried with each use", async () => {
  const factory = new Factory();
  const storage = await openIndexedDb({ factory });
  await storage.commit([{ table: "meta", key: "a", value: 1 }]);
  const open = factory.open.bind(factory);
  factory.open = () => { throw new Error("the disk is away"); };
  factory.close();
  await settle();
  await assert.rejects(storage.get("meta", "a"), /the disk is away/);
  factory.open = open;
  assert.equal(await storage.get("meta", "a"), 1);
});

for (const how of ["evicted", "deleted by another tab", "a newer version's"] as const) {
  test(`when the data is ${how}, the store ends and says so; the edits in memory are there, and are sent`, async () => {
    const factory = new Factory();
    const w = new World();
    let released = 0;
    const locks = { request: (_: string, __: object, granted: () => Promise<void>) => granted().then(() => void released++) };
    await w.start({ storage: openIndexedDb({ factory, locks }) });
    const before = w.project.insert("task", { title: "before" }, { id: "t1" });
    await before.local;
    if (how === "evicted") {
      factory.close();
      await settle();
      await factory.delete("syncline");
    } else if (how === "deleted by another tab") await factory.delete("syncline");
    else await new Promise((resolve) => (factory.open("syncline", 2).onsuccess = resolve));
    await settle();
    const now = how === "a newer version's" ? [2] : [];
    for (let round = 0; round < 2; round++) {
      const after = w.project.insert("task", { title: "after" }, { id: "t2" });
      await assert.rejects(after.local, (error: Error) => error instanceof StorageError && /exportPending/.test(error.message));
      // Nothing empty stands in its place.
      assert.deepEqual(await versions(factory), now);
    }
    assert.match(w.client.status.get().storage!.message, how === "evicted" ? /the browser has deleted/ : /by another tab/);
    assert.deepEqual(JSON.parse(w.project.exportPending()).map(({ id }: { id: string }) => id), ["t1"]);
    assert.equal(released, 1, "the next tab need not wait");
    await w.online();
    assert.deepEqual(w.hub.log.map(({ id }) => id), ["t1"]);
  });
}
