/** The bundle where there is no DOM, as in React Native: nothing but the language, timers and what is passed in. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createContext, runInContext } from "node:vm";
import { build } from "esbuild";
import { settle } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

test("the core runs without any global of the web", async () => {
  const contents = 'export { createClient, nativeHints, syncNow } from "./src/index.ts"';
  const bundled = await build({ stdin: { contents, resolveDir: process.cwd() }, bundle: true, format: "iife", globalName: "syncline", write: false });
  const context = createContext({ setTimeout, clearTimeout, AbortController });
  runInContext(bundled.outputFiles[0]!.text, context);
  for (const name of ["document", "window", "WebSocket", "fetch", "crypto", "indexedDB", "TextEncoder"]) {
    assert.equal(runInContext(`typeof ${name}`, context), "undefined");
  }
  const hub = new FakeHub();
  let change: ((state: string) => void) | undefined;
  const appState = { currentState: "active", addEventListener: (_: string, listener: (state: string) => void) => ((change = listener), { remove: () => {} }) };
  Object.assign(context, { hub, appState, done: undefined });
  await runInContext(
    `(async () => {
      const hints = syncline.nativeHints(appState);
      const client = await syncline.createClient({ url: "http://hub.test", getToken: () => "t", openSocket: hub.openSocket, fetch: hub.fetch, hints });
      const project = await client.project("p");
      project.subscribe();
      await client.connect();
      await project.insert("task", { title: "é" }, { id: "t1" }).synced;
      done = async () => { await client.close(); };
    })()`,
    context,
  );
  assert.equal(hub.log[0]?.fields["title"], "é");
  change?.("background");
  await settle();
  assert.deepEqual(hub.heard.at(-1), { type: "ack", active: false });
  await runInContext("done()", context);
});
