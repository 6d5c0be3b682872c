/** What the surroundings say of the app, from its first moment on. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../src/client.js";
import { browserHints, type Hint, type HintSource, nativeHints } from "../src/platform.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

/** A page's document and window, for as long as `run` takes. */
async function inPage(visibilityState: string, run: (page: EventTarget & { visibilityState: string }) => Promise<void>): Promise<void> {
  const page = Object.assign(new EventTarget(), { visibilityState });
  const window = new EventTarget();
  const scope = globalThis as Record<string, unknown>;
  Object.assign(scope, {
    document: page,
    addEventListener: window.addEventListener.bind(window),
    removeEventListener: window.removeEventListener.bind(window),
  });
  try {
    await run(page);
  } finally {
    for (const name of ["document", "addEventListener", "removeEventListener"]) delete scope[name];
  }
}

function appState(currentState: string | null) {
  const listeners = new Set<(state: string) => void>();
  const change = (state: string) => listeners.forEach((listener) => listener(state));
  return { currentState, change, addEventListener: (_: "change", listener: (state: string) => void) => (listeners.add(listener), { remove: () => void listeners.delete(listener) }) };
}

/** What the hub hears first of a client with such hints. */
async function introduced(hints: HintSource): Promise<unknown> {
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints });
  await client.connect();
  await settle();
  await client.close();
  const [first] = hub.heard;
  return first?.type === "connect" && first.active;
}

test("a page that begins in a hidden tab says so in its first frame", async () => {
  await inPage("hidden", async () => assert.equal(await introduced(browserHints), false));
  await inPage("visible", async () => assert.equal(await introduced(browserHints), true));
});

test("an app that the system started without a screen says so in its first frame", async () => {
  assert.equal(await introduced(nativeHints(appState("background"))), false);
  // `unknown` and `null`: the system has not told yet.
  for (const state of ["active", "inactive", "unknown", null]) assert.equal(await introduced(nativeHints(appState(state))), true);
});

test("what changes afterwards is told, until it is stopped", async () => {
  const told: Hint[] = [];
  await inPage("hidden", async (page) => {
    const stop = browserHints((hint) => told.push(hint));
    page.visibilityState = "visible";
    page.dispatchEvent(new Event("visibilitychange"));
    stop();
    page.dispatchEvent(new Event("visibilitychange"));
  });
  const app = appState("background");
  const stop = nativeHints(app)((hint) => told.push(hint));
  app.change("inactive");
  app.change("active");
  stop();
  app.change("background");
  assert.deepEqual(told, ["background", "foreground", "background", "foreground"]);
});
