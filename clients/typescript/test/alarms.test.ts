/** What fails where nobody waits for it ends no process and stops no work. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { openPush } from "../src/push/index.js";
import { Watched } from "../src/emitter.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

test("views over a store that cannot be read alarm only who asks", async () => {
  const w = await new World().start();
  w.storage.list = () => Promise.reject(new Error("disk"));
  w.storage.get = () => Promise.reject(new Error("disk"));
  const tasks = w.project.query("task");
  tasks.subscribe(() => {});
  w.project.watch("task", "t1").subscribe(() => {});
  await settle();
  assert.match(w.client.status.get().storage!.message, /disk/);
  await assert.rejects(tasks.ready(), /disk/);
});

test("what a session brings is not lost on a store that fails, and alarms nobody", async () => {
  const w = await (await new World().start()).online();
  w.client.disconnect();
  w.hub.scope = "another";
  let failing = true;
  w.storage.fault = () => (failing ? new Error("disk") : undefined);
  await w.online();
  w.hub.tell({ type: "conflict", project: "p", conflict: { id: "c", fields: [], entity: { type: "task", id: "t1" } } } as never);
  w.hub.tell({ type: "notification", nid: "n", project: "p", seq: 1, title: "", body: "", lane: "high", at: 0 } as never);
  w.hub.tell({ type: "gone", room: "project:p", reason: "access_lost" } as never);
  await settle();
  assert.match(w.client.status.get().storage!.message, /disk/);
  failing = false;
});

test("a push that cannot be noted, and a badge that cannot be shown, are told to the app", async () => {
  const w = await new World().start();
  const errors: string[] = [];
  const push = await openPush(w.client, { schemes: [], onError: ({ message }) => errors.push(message), setBadge: () => Promise.reject(new Error("no badge")) });
  await push.unregister();
  await settle();
  assert.deepEqual(errors, ["Error: no badge"]);
  push.stop();
});

test("a listener that throws surfaces, and keeps nobody from hearing or telling", async () => {
  const others = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  const surfaced = new Promise((resolve) => process.once("unhandledRejection", resolve));
  const value = new Watched(0);
  const heard: number[] = [];
  value.subscribe(() => {
    throw new Error("of the app");
  });
  value.subscribe(() => heard.push(value.get()));
  value.set(1);
  assert.match(String(await surfaced), /of the app/);
  assert.deepEqual(heard, [1]);
  for (const other of others) process.on("unhandledRejection", other);
});
