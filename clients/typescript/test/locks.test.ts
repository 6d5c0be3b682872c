/** One store serves one tab at a time: with locks in memory here, in Chromium in `locks-browser.test.ts`. */

import assert from "node:assert/strict";
import { test } from "node:test";
import "fake-indexeddb/auto";
import { InUseError } from "../src/errors.js";
import { type LocksLike, openIndexedDb } from "../src/storage/indexeddb.js";
import { settle } from "./support/clock.js";

/** Exclusive locks, as the standard has them. */
class Locks implements LocksLike {
  private readonly queues = new Map<string, Promise<unknown>>();

  async request(name: string, { signal }: { signal?: AbortSignal }, granted: () => Promise<void>): Promise<unknown> {
    const before = this.queues.get(name);
    const aborted = new Promise<"aborted">((resolve) => signal?.addEventListener("abort", () => resolve("aborted")));
    const run = Promise.race([Promise.resolve(before), aborted]).then((how) => {
      if (how === "aborted") throw signal!.reason;
      return granted();
    });
    const over = Promise.allSettled([before, run]).then(() => void (this.queues.get(name) === over && this.queues.delete(name)));
    this.queues.set(name, over);
    return run;
  }
}

test("a second tab is told, and others' stores are none of its business", async () => {
  const locks = new Locks();
  const first = await openIndexedDb({ name: "one", locks });
  await assert.rejects(openIndexedDb({ name: "one", locks }), (error: Error) => error instanceof InUseError && /another tab/.test(error.message));
  await (await openIndexedDb({ name: "two", locks })).close();
  await first.close();
  await settle();
  await (await openIndexedDb({ name: "one", locks })).close();
});

test("a page that was reloaded has what its predecessor gives back in a moment", async () => {
  const locks = new Locks();
  const first = await openIndexedDb({ name: "reloaded", locks });
  const next = openIndexedDb({ name: "reloaded", locks });
  await settle();
  await first.close();
  await (await next).close();
});

test("a tab that waits takes over when the first is done, with what that one stored", async () => {
  const locks = new Locks();
  const first = await openIndexedDb({ name: "turns", locks });
  let opened = false;
  const second = openIndexedDb({ name: "turns", locks, wait: true }).finally(() => (opened = true));
  await settle();
  assert.equal(opened, false);
  const gaveUp = new AbortController();
  const third = openIndexedDb({ name: "turns", locks, wait: gaveUp.signal });
  gaveUp.abort(new Error("the user went on"));
  await assert.rejects(third, /went on/);
  await first.commit([{ table: "meta", key: "a", value: 1 }]);
  await first.close();
  assert.equal(await (await second).get("meta", "a"), 1);
});

test("a database that cannot be opened is not kept from others", async () => {
  const locks = new Locks();
  const broken = { open: () => { throw new Error("no room"); } } as never as IDBFactory;
  await assert.rejects(openIndexedDb({ name: "broken", locks, factory: broken }), /no room/);
  await settle();
  await (await openIndexedDb({ name: "broken", locks })).close();
});
