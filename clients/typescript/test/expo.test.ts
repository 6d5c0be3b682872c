/** The background task of an Expo app, with the system's part played by the test. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../src/client.js";
import { registerBackgroundSync } from "../src/expo.js";
import { syncLog } from "../src/sync.js";
import { TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

test("the system's task sends what waits, and leaves it alone without a network", async () => {
  const hub = new FakeHub();
  const clock = new TestClock();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock, openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  const project = await client.project("p");
  await project.insert("task", { title: "mine" }, { id: "t1" }).local;
  let task: (() => Promise<unknown>) | undefined;
  const calls: unknown[] = [];
  let reachable = false;
  const stop = await registerBackgroundSync({
    taskManager: { defineTask: (_, run) => void (task = run) },
    backgroundTask: {
      registerTaskAsync: async (name, { minimumInterval }) => void calls.push([name, minimumInterval]),
      unregisterTaskAsync: async (name) => void calls.push(name),
      BackgroundTaskResult: { Success: "success", Failed: "failed" },
    },
    network: { getNetworkStateAsync: async () => ({ isInternetReachable: reachable }) },
    client: async () => client,
  });
  assert.equal(await task?.(), "success");
  assert.equal(hub.requests.length, 0);
  reachable = true;
  hub.online = false;
  assert.equal(await task?.(), "failed");
  const [first] = await syncLog(client);
  // What is too old goes all the same.
  await clock.advance(31 * 86_400_000);
  assert.equal(await task?.(), "failed");
  assert.ok(!(await syncLog(client)).some(({ at }) => at === first!.at), "nothing was cleaned up");
  hub.online = true;
  assert.equal(await task?.(), "success");
  assert.deepEqual(hub.log.map(({ id }) => id), ["t1"]);
  await stop();
  assert.deepEqual(calls, [["syncline-sync", 15], "syncline-sync"]);
});
