/** One logs out and another in on the same store, against the real hub: over the socket and over HTTP. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { WrongUserError } from "../src/errors.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { syncNow } from "../src/sync.js";
import { eventually } from "./support/clock.js";
import { client } from "./support/real.js";

test("what one left on a device is neither sent as another nor brought up to date with their token", async () => {
  const storage = new MemoryStorage();
  const ana = await client("jürgen a", "shared-device", { storage });
  const project = await ana.project("shared-device");
  project.subscribe();
  await ana.connect();
  await project.insert("task", { title: "one" }).synced;
  await eventually("it is live", () => project.state.get() === "live");
  ana.disconnect();
  await project.insert("task", { title: "not sent" }).local;
  await ana.close();

  await assert.rejects(client("bo", "shared-device", { storage }), WrongUserError);
  // An app that takes its user for another finds out from the hub.
  const bo = await client("bo", "shared-device", { storage, user: "jürgen a" });
  const refused = await syncNow(bo);
  assert.deepEqual([refused.pushed, refused.pulled, refused.left], [0, 0, 1]);
  assert.match(refused.error!, /another user's/);
  await assert.rejects(bo.connect(), WrongUserError);
  await bo.close();

  const back = await client("jürgen a", "shared-device", { storage });
  assert.deepEqual((await syncNow(back)).pushed, 1);
  await back.connect();
  await back.close();
});
