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
  at?: number;
  pending: number;
  conflicts: number;
  news: string[];
}

/** What the page shows to the test. */
interface Mounted {
  project(): Promise<{ stream: { following: boolean } }>;
  unmount(): void;
}

/** Asks the hub as somebody else. */
async function asDan(path: string, op?: unknown): Promise<unknown> {
  const answer = await fetch(`${DEV}/demo/token`, { method: "POST", body: JSON.stringify({ user: "dan" }) });
  const { token } = (await answer.json()) as { token: string };
  const headers = { authorization: `Bearer ${token}` };
  const asked = await fetch(`${DEV}/v1/projects/demo/${path}`, { headers, ...(op ? { method: "POST", body: JSON.stringify({ ops: [op] }) } : {}) });
  assert.equal(asked.status, 200);
  return asked.json();
}

/** Writes what this page's user is told of. */
const notify = (title: string) =>
  asDan("ops", { op_id: title, kind: "create", type: "news", id: title, fields: {}, notify: { users: ["cy"], title } });

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
    await page.click("#move");
    await eventually("our state shows", async () => (await shown()).at === 7);
    // Offline: two set the title, which asks the user.
    const inPage = (script: string) => page.evaluate(script);
    await inPage("client.disconnect()");
    await page.click("#update");
    await eventually("the edit waits", async () => (await shown()).pending === 1);
    const { version } = (await asDan("entities/card/react-1")) as { version: number };
    await asDan("ops", { op_id: "theirs", kind: "update", type: "card", id: "react-1", base: version, fields: { title: "theirs" } });
    await inPage("void client.connect()");
    await eventually("the conflict shows", async () => (await shown()).conflicts === 1 && (await shown()).one === "theirs");
    await inPage('project().then((demo) => void demo.resolve(demo.conflicts()[0].id, { choose: "client" }))');
    await eventually("it is over", async () => (await shown()).conflicts === 0 && (await shown()).one === "changed");
    await page.click("#delete");
    await eventually("it is gone", async () => {
      const { one, titles, pending } = await shown();
      return one === undefined && !titles.includes("changed") && pending === 0;
    });
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
