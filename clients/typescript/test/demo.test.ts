/** The demo page in a real browser: two people meet, part, and meet again. */

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { after, before, test } from "node:test";
import puppeteer, { type Browser, type Page } from "puppeteer-core";
import { CHROMIUM } from "./support/browser.js";
import { eventually } from "./support/clock.js";
import { DEV } from "./support/real.js";

/** What a person would see, kept beside the build: docs/demo.png is a copy of it. */
const SCREENSHOT = "../../target/demo.png" as const;

let browser: Browser;
let page: Page;
const errors: string[] = [];

before(async () => {
  browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"], defaultViewport: { width: 1220, height: 652 } });
  page = await browser.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(DEV);
  await eventually("both are online", async () => (await page.$$(".state.online")).length === 2);
});

after(async () => {
  await browser?.close();
  assert.deepEqual(errors, []);
});

const pane = (user: string) => `.pane[data-user="${user}"]`;
const titles = (user: string) => page.$$eval(`${pane(user)} .card input[type=text]`, (inputs) => inputs.map(({ value }) => value));
const votes = (user: string) => page.$eval(`${pane(user)} .votes`, ({ textContent }) => textContent);
const text = (user: string) => page.$eval(pane(user), (element) => (element as HTMLElement).innerText);
const network = (user: string) => page.click(`${pane(user)} .switch.network input`);
const screen = (user: string) => page.click(`${pane(user)} .switch.screen input`);
const pushes = () => page.$$eval(".pushes li", (items) => items.map(({ innerText }) => innerText.replaceAll("\n", " ")));

async function add(user: string, title: string): Promise<void> {
  await page.type(`${pane(user)} .add input`, title);
  await page.click(`${pane(user)} .add button`);
}

async function rename(user: string, title: string): Promise<void> {
  await page.click(`${pane(user)} .card input[type=text]`, { count: 3 });
  await page.keyboard.type(title);
  await page.keyboard.press("Tab");
}

test("what one adds, both see; and each sees the other", async () => {
  await add("ana", "Pour concrete");
  await add("bo", "Order windows");
  await eventually("both see both", async () => (await titles("ana")).length === 2 && (await titles("bo")).length === 2);
  assert.deepEqual(await titles("ana"), await titles("bo"));
  await eventually("bo is seen", async () => (await page.$$(`${pane("ana")} .here .avatar.bo`)).length === 1);
});

test("offline edits wait, survive a reload, and merge", async () => {
  await network("bo");
  await eventually("bo is seen to leave", async () => (await page.$$(`${pane("ana")} .here .avatar.bo`)).length === 0);
  await page.click(`${pane("bo")} .votes`);
  await eventually("it waits", async () => (await text("bo")).includes("1 edit kept"));
  await page.click(`${pane("ana")} .votes`);
  await eventually("the vote is in", async () => (await votes("ana")) === "▲ 1");
  await page.reload();
  await eventually("ana is back", async () => (await page.$$(`${pane("ana")} .state.online`)).length === 1);
  assert.match(await text("bo"), /1 edit kept/);
  assert.equal((await page.$$(`${pane("bo")} .state.online`)).length, 0);
  await network("bo");
  await eventually("both votes count", async () => (await votes("ana")) === "▲ 2" && (await votes("bo")) === "▲ 2");
  await eventually("nothing waits", async () => !(await text("bo")).includes("kept"));
});

test("an SOS that is acknowledged is no push; whose network or screen is off gets one", async () => {
  const sos = async (from: string, outcome: RegExp) => {
    const before = (await pushes()).length;
    await page.click(`${pane(from)} button.sos`);
    await eventually(`it is in the log: ${outcome}`, async () => (await pushes()).length === before + 1 && outcome.test((await pushes())[0]!));
  };
  await sos("ana", /SOS from Ana acknowledged: no push/);
  await eventually("bo sees it", async () => (await text("bo")).includes("SOS from Ana"));
  await page.click(`${pane("bo")} .alarm .read`);
  await eventually("bo has read it", async () => !(await text("bo")).includes("SOS from Ana"));
  await network("bo");
  await eventually("bo is away", async () => (await page.$$(`${pane("bo")} .state.online`)).length === 0);
  await sos("ana", /SOS from Ana pushed to Bo's phone/);
  assert.doesNotMatch(await text("bo"), /SOS from Ana/);
  await network("bo");
  await eventually("it waited in the inbox", async () => (await text("bo")).includes("SOS from Ana"));
  await screen("ana");
  await sos("bo", /SOS from Bo pushed to Ana's phone/);
  await screen("ana");
  await eventually("ana sees it all the same", async () => (await text("ana")).includes("SOS from Bo"));
  await page.click(`${pane("ana")} .alarm .read`);
  await page.click(`${pane("bo")} .alarm .read`);
  await eventually("all is read", async () => (await page.$$(".alarm")).length === 0);
});

test("a title that both changed is decided by its author", async () => {
  await network("bo");
  await rename("bo", "Pour it on Monday");
  await eventually("it waits", async () => (await text("bo")).includes("1 edit kept"));
  await rename("ana", "Pour it on Friday");
  await eventually("ana's is decided", async () => !(await text("ana")).includes("kept"));
  await network("bo");
  await eventually("bo is asked", async () => (await text("bo")).includes("Which one stands?"));
  const box = await (await page.$(pane("bo")))!.boundingBox();
  let at = 0.3;
  await eventually("the pointer is seen", async () => {
    at = at > 0.8 ? 0.3 : at + 0.01;
    await page.mouse.move(box!.x + box!.width * at, box!.y + box!.height * 0.85);
    return (await page.$$(`${pane("ana")} .cursor.bo`)).length === 1;
  });
  mkdirSync(dirname(SCREENSHOT), { recursive: true });
  await page.screenshot({ path: SCREENSHOT });
  assert.equal((await titles("bo"))[0], "Pour it on Friday");
  await page.click(`${pane("bo")} .take-client`);
  await eventually("both agree", async () => (await titles("ana"))[0] === "Pour it on Monday" && (await titles("bo"))[0] === "Pour it on Monday");
  await eventually("it is over", async () => !(await text("bo")).includes("Which one stands?"));
});

const panes = (on: Page) => on.$$eval(".pane", (all) => all.map((one) => (one as HTMLElement).innerText));

test("a browser that keeps nothing is told so", async () => {
  const context = await browser.createBrowserContext();
  const other = await context.newPage();
  other.on("pageerror", (error) => errors.push(String(error)));
  await other.evaluateOnNewDocument(() => {
    IDBFactory.prototype.open = () => {
      throw new DOMException("The user denied permission to access the database.", "SecurityError");
    };
  });
  await other.goto(DEV);
  await eventually("both panes say it", async () => (await panes(other)).every((words) => words.includes("cannot keep its data")));
  await context.close();
});

test("a second tab says that the first one has the board, and goes on when that is closed", async () => {
  const second = await browser.newPage();
  second.on("pageerror", (error) => errors.push(String(error)));
  await second.goto(DEV);
  await eventually("both panes say it", async () => (await panes(second)).every((words) => words.includes("open in another tab")));
  const cards = (await titles("ana")).length;
  await page.close();
  await eventually("both go on", async () => (await second.$$(".state.online")).length === 2);
  await eventually("the board is there", async () => (await second.$$(".card")).length === 2 * cards);
});
