/** The hooks, in a real browser, in strict mode, against the real hub. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { build } from "esbuild";
import puppeteer from "puppeteer-core";
import { eventually } from "./support/clock.js";
import { CHROMIUM } from "./support/browser.js";
import { DEV } from "./support/real.js";

interface Shown {
  connection: string;
  titles: string[];
  one?: string;
  here: string[];
  pending: number;
  conflicts: number;
  news: string[];
}

/** What the page shows to the test. */
interface Mounted {
  project(): Promise<{ stream: { following: boolean } }>;
  unmount(): void;
}

/** Writes as somebody else, who tells this page's user. */
async function notify(title: string): Promise<void> {
  const answer = await fetch(`${DEV}/demo/token`, { method: "POST", body: JSON.stringify({ user: "dan" }) });
  const { token } = (await answer.json()) as { token: string };
  const op = { op_id: title, kind: "create", type: "news", id: title, fields: {}, notify: { users: ["cy"], title } };
  const headers = { authorization: `Bearer ${token}` };
  const written = await fetch(`${DEV}/v1/projects/demo/ops`, { method: "POST", headers, body: JSON.stringify({ ops: [op] }) });
  assert.equal(written.status, 200);
}

test("every hook shows what is, and what waits", async () => {
  const options = { jsx: "automatic", define: { "process.env.NODE_ENV": '"development"' } } as const;
  const bundled = await build({ entryPoints: ["test/support/react-page.tsx"], bundle: true, format: "iife", write: false, ...options });
  const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  try {
    const page = await browser.newPage();
    const errors: string[] = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => {
      const asset = message.location().url?.endsWith("/favicon.ico");
      if (message.type() === "error" && !asset) errors.push(message.text());
    });
    // An empty page of the hub's origin.
    await page.setBypassCSP(true);
    await page.goto(`${DEV}/demo.css`);
    await page.addScriptTag({ content: bundled.outputFiles[0]!.text });
    const shown = async () => JSON.parse((await page.$eval("#shown", ({ textContent }) => textContent)) ?? "{}") as Shown;
    await page.waitForSelector("#shown");
    await eventually("the store was read", async () => (await shown()).connection === "idle");
    await page.evaluate(() => (globalThis as never as { project(): Promise<unknown> }).project());
    await eventually("the edit waits", async () => {
      await page.click("#insert");
      return (await shown()).pending > 0;
    });
    assert.equal((await shown()).one, "from React");
    await page.evaluate(() => void (globalThis as never as { client: { connect(): Promise<void> } }).client.connect());
    await eventually("all is sent", async () => {
      const now = await shown();
      return now.connection === "online" && now.pending === 0 && now.titles.includes("from React");
    });
    await eventually("we are here", async () => (await shown()).here.includes("cy"));
    await page.click("#update");
    await eventually("the change shows", async () => (await shown()).one === "changed" && (await shown()).pending === 0);
    const unread = () => page.$eval("#unread", ({ textContent }) => textContent);
    await notify("first");
    await eventually("the news shows", async () => (await unread()) === "1" && (await shown()).news[0] === "first");
    await page.click("#read");
    await eventually("it is read", async () => (await unread()) === "0");
    assert.deepEqual((await shown()).news, ["first"]);
    const following = () => page.evaluate(async () => (await (globalThis as never as Mounted).project()).stream.following);
    assert.equal(await following(), true);
    await page.evaluate(() => (globalThis as never as Mounted).unmount());
    await eventually("nobody follows the project any more", async () => !(await following()));
    assert.deepEqual(errors, []);
  } finally {
    await browser.close();
  }
});
