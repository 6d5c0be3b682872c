/** A store belongs to one user: another neither sees what is in it nor sends it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import "fake-indexeddb/auto";
import { type Client, type ClientOptions, createClient } from "../src/client.js";
import { AuthError, StorageError, WrongUserError } from "../src/errors.js";
import { clear } from "../src/storage/clear.js";
import { openIndexedDb } from "../src/storage/indexeddb.js";
import { MemoryStorage } from "../src/storage/memory.js";
import type { Storage } from "../src/storage/storage.js";
import { syncNow } from "../src/sync.js";
import { eventually, settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

/** Opens the same store again and again, as each start of an app does. */
const stores: Record<string, () => () => Promise<Storage>> = {
  memory: () => {
    const disk = new MemoryStorage();
    return async () => disk;
  },
  indexeddb: () => {
    const name = `users-${Math.random()}`;
    return () => openIndexedDb({ name });
  },
};

for (const [name, device] of Object.entries(stores)) {
  const setup = () => {
    const hub = new FakeHub();
    const open = device();
    const app = async (user: string, options: Partial<ClientOptions> = {}): Promise<Client> => {
      hub.user = user;
      return createClient({ url: "http://hub.test", getToken: () => user, user, clock: new TestClock(), storage: open(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {}, ...options });
    };
    return { hub, open, app };
  };
  const connected = (client: Client) => client.connect().then(settle);

  /** Ana was here, and left a task and an edit that was not sent. */
  const leave = async ({ hub, app }: ReturnType<typeof setup>) => {
    const client = await app("ana");
    const project = await client.project("p");
    project.subscribe();
    await connected(client);
    await project.insert("task", { title: "ana's" }, { id: "t1" }).synced;
    await eventually("it is in the copy", () => project.replica.ops.length === 0);
    client.disconnect();
    await project.insert("task", { title: "not sent" }, { id: "t2" }).local;
    await client.close();
    hub.heard.length = hub.requests.length = 0;
  };
  const written = (hub: FakeHub) => hub.heard.filter(({ type }) => type === "write");

  test(`${name}: a session of another user's is refused, and nothing is shown or sent any more`, async () => {
    const world = setup();
    await leave(world);
    // The app takes its user for ana, and has a token of bo's.
    const client = await world.app("bo", { user: "ana" });
    const project = await client.project("p");
    project.subscribe();
    const tasks = project.query("task");
    const one = project.watch("task", "t1");
    tasks.subscribe(() => {});
    one.subscribe(() => {});
    await tasks.ready();
    await assert.rejects(client.connect(), (error) => error instanceof WrongUserError && error instanceof AuthError && /another user's/.test(error.message));
    await settle();
    assert.deepEqual([tasks.get().data, one.get().data, await project.get("task", "t1")], [[], undefined, undefined]);
    assert.deepEqual([project.pending(), project.conflicts()], [[], []]);
    const { connection, problem, user, pending, storage } = client.status.get();
    assert.deepEqual([connection, problem?.name, user, pending, storage], ["refused", "WrongUserError", undefined, 0, undefined]);
    await assert.rejects(project.insert("task", { title: "bo's" }).local, WrongUserError);
    await assert.rejects(client.connect(), WrongUserError, "it stays refused");
    await client.close();
    assert.equal(written(world.hub).length, 0);

    // Nothing of ana's was touched.
    const back = await world.app("ana");
    await (await back.project("p")).query("task").ready();
    await connected(back);
    assert.deepEqual(world.hub.log.map(({ id }) => id), ["t1", "t2"]);
    await back.close();
  });

  test(`${name}: an app whose user is another is refused before anything is opened`, async () => {
    const world = setup();
    await leave(world);
    await assert.rejects(world.app("bo"), WrongUserError);
    // One that does not say is not shown anything either: types can be got round.
    await assert.rejects(world.app("ana", { user: undefined as never }), WrongUserError);
    const back = await world.app("ana");
    assert.equal(back.status.get().user, "ana");
    assert.equal((await (await back.project("p")).query("task").ready()).length, 2);
    await back.close();
    // Said at the first start, it holds before there was any session.
    const fresh = setup();
    const first = await fresh.app("ana");
    await (await first.project("p")).insert("task", { title: "early" }).local;
    await first.close();
    await assert.rejects(fresh.app("bo"), WrongUserError);
  });

  test(`${name}: the background sends nothing of another user's over HTTP, and brings nothing of theirs`, async () => {
    const world = setup();
    await leave(world);
    const client = await world.app("bö", { user: "ana" });
    world.hub.write("task", "t3", { title: "bö's" });
    const result = await syncNow(client);
    assert.deepEqual([result.pushed, result.pulled, result.left, result.complete], [0, 0, 1, false]);
    assert.match(result.error!, /another user's/);
    assert.equal(world.hub.log.length, 2);
    await client.close();
    const back = await world.app("ana");
    assert.deepEqual((await syncNow(back)).pushed, 1);
    await back.close();
  });

  test(`${name}: a store that is cleared is the next user's; one that keeps what waits is not`, async () => {
    const world = setup();
    await leave(world);
    let storage = await world.open();
    await clear(storage, { keepPending: true });
    await storage.close();
    await assert.rejects(world.app("bo"), WrongUserError);
    const back = await world.app("ana");
    const project = await back.project("p");
    assert.deepEqual((await project.query("task").ready()).map(({ id }) => id), ["t2"]);
    const { clientId } = back;
    await connected(back);
    assert.deepEqual(world.hub.log.map(({ id }) => id), ["t1", "t2"]);
    await back.close();

    storage = await world.open();
    await clear(storage);
    await storage.close();
    const bo = await world.app("bo");
    assert.notEqual(bo.clientId, clientId);
    assert.deepEqual(await (await bo.project("p")).query("task").ready(), []);
    await connected(bo);
    assert.equal(bo.status.get().user, "bo");
    await bo.close();
  });
}

test("a store that cannot be made its user's makes no client, and nothing of it is sent", async () => {
  const hub = new FakeHub();
  const disk = new MemoryStorage();
  const clock = new TestClock();
  let full = true;
  const storage: Storage = {
    get: (...args) => disk.get(...args),
    list: (...args) => disk.list(...args),
    commit: async (puts) => (full && puts.some(({ key }) => key === "user") ? Promise.reject(new Error("disk full")) : disk.commit(puts)),
    close: () => disk.close(),
  };
  const make = () => createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock, storage, openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  await assert.rejects(make(), StorageError);
  assert.deepEqual([hub.sockets.length, await disk.get("meta", "user")], [0, undefined]);
  full = false;
  const client = await make();
  await (await client.project("p")).insert("task", { title: "mine" }).local;
  await client.connect();
  await settle();
  assert.deepEqual([hub.log.length, await disk.get("meta", "user")], [1, "ana"]);
  await client.close();
});
