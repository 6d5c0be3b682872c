/** Two tabs of one browser on one store, with the browser's own locks. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { build } from "esbuild";
import puppeteer, { type Browser, type Page } from "puppeteer-core";
import type { Storage } from "../src/storage/storage.js";
import { CHROMIUM } from "./support/browser.js";
import { DEV } from "./support/real.js";

async function tab(browser: Browser, script: string): Promise<Page> {
  const page = await browser.newPage();
  await page.setBypassCSP(true);
  // An empty page of the hub's origin.
  await page.goto(`${DEV}/demo.css`);
  await page.addScriptTag({ content: script });
  return page;
}

type Opened = { syncline: { openIndexedDb(options: object): Promise<unknown> }; waiting?: Promise<unknown> };

test("a second tab is refused or waits, and takes over when the first is closed", async () => {
  const bundled = await build({ entryPoints: ["src/index.ts"], bundle: true, format: "iife", globalName: "syncline", write: false });
  const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  try {
    const [first, second] = [await tab(browser, bundled.outputFiles[0]!.text), await tab(browser, bundled.outputFiles[0]!.text)];
    const open = (page: Page, wait: boolean) =>
      page.evaluate(async (wait) => {
        const opened = (globalThis as never as Opened).syncline.openIndexedDb({ name: "tabs", wait });
        return opened.then(() => "opened", ({ name }: Error) => name);
      }, wait);
    assert.equal(await open(first, false), "opened");
    assert.equal(await open(second, false), "InUseError");
    const waiting = open(second, true);
    // It stands in the queue, and nothing but the first tab's end lets it through.
    await second.waitForFunction(async () => (await navigator.locks.query()).pending!.length === 1);
    await first.close();
    assert.equal(await waiting, "opened");
  } finally {
    await browser.close();
  }
});

test("a browser that deletes the data while a tab has it open ends the store, and leaves no empty one", async () => {
  const bundled = await build({ entryPoints: ["src/index.ts"], bundle: true, format: "iife", globalName: "syncline", write: false });
  const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  try {
    const page = await tab(browser, bundled.outputFiles[0]!.text);
    await page.evaluate(async () => {
      const scope = globalThis as never as Opened & { storage: Storage };
      scope.storage = (await scope.syncline.openIndexedDb({ name: "evicted" })) as Storage;
      await scope.storage.commit([{ table: "meta", key: "a", value: 1 }]);
    });
    const session = await page.createCDPSession();
    await session.send("Storage.clearDataForOrigin", { origin: DEV, storageTypes: "indexeddb" });
    const found = await page.waitForFunction(async () => {
      const { storage } = globalThis as never as { storage: Storage };
      // Until the browser has told the page, its connection is as it was.
      const problem = await storage.get("meta", "a").then(() => undefined, ({ message }: Error) => message);
      return problem?.includes("exportPending") && { problem, left: (await indexedDB.databases()).length };
    });
    const { problem, left } = (await found.jsonValue()) as { problem: string; left: number };
    assert.match(problem, /the browser has deleted the database evicted/);
    assert.equal(left, 0);
  } finally {
    await browser.close();
  }
});
