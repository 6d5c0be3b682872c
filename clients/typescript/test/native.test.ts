/** The bundle where there is no DOM, as in React Native: nothing but the language, timers and what is passed in. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createContext, runInContext } from "node:vm";
import { build } from "esbuild";
import { settle } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";
import { ExpoLike } from "./support/sqlite.js";

const LONG = "x".repeat(500);

test("the client, push and Expo's parts run without any global of the web", async () => {
  const contents = `
    export { compressed, createClient, nativeHints, openSqlite, syncNow } from "./src/index.ts";
    export { registerBackgroundSync } from "./src/expo.ts";
    export { openPush } from "./src/push/index.ts";
    export { verify } from "./src/verify.ts";
  `;
  const bundled = await build({ stdin: { contents, resolveDir: process.cwd() }, bundle: true, format: "iife", globalName: "syncline", write: false });
  const context = createContext({ setTimeout, clearTimeout, AbortController });
  runInContext(bundled.outputFiles[0]!.text, context);
  for (const name of ["document", "window", "WebSocket", "fetch", "crypto", "indexedDB", "TextEncoder"]) {
    assert.equal(runInContext(`typeof ${name}`, context), "undefined");
  }
  const hub = new FakeHub();
  let change: ((state: string) => void) | undefined;
  const appState = { currentState: "active", addEventListener: (_: string, listener: (state: string) => void) => ((change = listener), { remove: () => {} }) };
  let background: (() => Promise<unknown>) | undefined;
  const taskManager = { defineTask: (_: string, run: () => Promise<unknown>) => void (background = run) };
  const backgroundTask = { registerTaskAsync: async () => {}, unregisterTaskAsync: async () => {}, BackgroundTaskResult: { Success: 1, Failed: 2 } };
  // Apps there bring their own compression, as they do their database.
  const codec = { compress: async (text: string) => text.replace(/x+/, "~"), expand: async (packed: string) => packed.replace("~", LONG) };
  Object.assign(context, { hub, appState, taskManager, backgroundTask, codec, LONG, database: new ExpoLike(":memory:") });
  await runInContext(
    `(async () => {
      const hints = syncline.nativeHints(appState);
      const storage = syncline.compressed(await syncline.openSqlite(database), codec, 100);
      const client = await syncline.createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", storage, openSocket: hub.openSocket, fetch: hub.fetch, hints });
      const opened = [];
      const push = await syncline.openPush(client, { schemes: ["app"], onLink: (link) => opened.push(link) });
      const project = await client.project("p");
      project.subscribe();
      await client.connect();
      await project.insert("task", { title: "é", text: LONG }, { id: "t1" }).synced;
      await syncline.registerBackgroundSync({ taskManager, backgroundTask, client: () => client });
      verified = () => syncline.verify(project, { everything: true });
      rows = () => project.query("task").ready();
      open = async (data) => { await push.opened(data); return opened; };
      done = async () => { push.stop(); await client.close(); };
    })()`,
    context,
  );
  assert.equal(hub.log[0]?.fields["title"], "é");
  change?.("background");
  await settle();
  assert.deepEqual(hub.heard.at(-1), { type: "ack", active: false });
  // Values of another realm have prototypes of their own.
  const run = async (script: string) => JSON.parse(JSON.stringify(await runInContext(script, context))) as unknown;
  assert.deepEqual(await run('open({ nid: "n1", link: "app://task/t1" })'), ["app://task/t1"]);
  assert.deepEqual(await run("rows().then((all) => all.map(({ fields }) => fields.text))"), [LONG]);
  assert.deepEqual(await run("verified().then(({ entities, mended }) => [entities, mended])"), [1, []]);
  assert.equal(await background?.(), 1);
  await runInContext("done()", context);
});
