/** Pushes against the real hub and its stand-in for Expo: from an event to the phone, and back to the numbers. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Client } from "../src/client.js";
import type { SynclineError } from "../src/errors.js";
import type { Notify } from "../src/protocol/client.gen.js";
import { openPush, type Push, type PushOptions } from "../src/push/index.js";
import { MemoryStorage } from "../src/storage/memory.js";
import { eventually } from "./support/clock.js";
import { client, EDGE, EXPO } from "./support/real.js";

const open: Client[] = [];
after(() => Promise.all(open.map((one) => one.close())));

async function start(user: string, project: string, options: Partial<PushOptions> & { storage?: MemoryStorage } = {}) {
  const { storage = new MemoryStorage(), ...more } = options;
  const one = await client(user, project, { storage });
  open.push(one);
  const errors: SynclineError[] = [];
  const push = await openPush(one, { schemes: ["app"], onError: (error) => void errors.push(error), ...more });
  await one.connect();
  return { client: one, push, errors };
}

/** Registers, and waits until the hub knows. */
async function phone(one: { client: Client; push: Push }, token: string): Promise<void> {
  await one.push.register({ token: `ExponentPushToken[${token}]`, platform: "android", locale: "de", tz: "Europe/Berlin", model: "Pixel" });
  await eventually("the device is registered", async () => (await devices(one.client)).length === 1);
}

const devices = async (one: Client) => (await one.parts.http.get<{ devices: Record<string, unknown>[] }>("/v1/push/devices")).devices;

interface Message {
  title: string;
  badge: number;
  data: { nid: string; report: string; link?: string };
}

/** What the stand-in took for a token. */
async function pushed(token: string): Promise<Message[]> {
  const log = (await (await fetch(`${EXPO}/stand-in/messages`)).json()) as { to: string; message: Message }[];
  return log.filter(({ to }) => to === `ExponentPushToken[${token}]`).map(({ message }) => message);
}

async function arrived(token: string, count = 1): Promise<Message> {
  await eventually(`push ${count} for ${token}`, async () => (await pushed(token)).length >= count);
  return (await pushed(token))[count - 1]!;
}

async function write(from: Client, project: string, notify: Notify): Promise<void> {
  const opened = await from.project(project);
  const verdict = await opened.insert("task", { title: notify.title }, { notify }).synced;
  assert.equal(verdict.outcome, "applied");
}

async function numbers(project: string): Promise<{ sent: number; delivered: number; opened: number }> {
  const headers = { authorization: `Bearer ${process.env["SYNCLINE_TEST_ADMIN"]}` };
  const lines = (await (await fetch(`${EDGE}/v1/push/stats?project=${project}`, { headers })).json()) as { provider: string }[];
  return lines.find(({ provider }) => provider === "expo") as never;
}

test("who is away gets a push; that it was opened is counted, and a forged report is not", async () => {
  const links: string[] = [];
  const badges: number[] = [];
  const storage = new MemoryStorage();
  const options = { storage, onLink: (link: string) => void links.push(link), setBadge: (count: number) => void badges.push(count) };
  const bo = await start("push-bo", "push", options);
  await phone(bo, "bo");
  const [device] = await devices(bo.client);
  const { platform, locale, tz, model, client: installation } = device!;
  assert.deepEqual([platform, locale, tz, model, installation], ["android", "de", "Europe/Berlin", "Pixel", bo.client.clientId]);
  bo.push.stop();
  await bo.client.close();

  const ana = await start("push-ana", "push");
  await write(ana.client, "push", { users: ["push-bo"], title: "Leak", lane: "high", link: "app://task/t1" });
  const message = await arrived("bo");
  assert.equal(message.title, "Leak");
  assert.equal(message.badge, 1);

  const woken = await start("push-bo", "push", options);
  await woken.push.received(message.data);
  await woken.push.opened({ ...message.data, report: message.data.report.replace(/[1-9a-f]/g, "0") });
  assert.match(woken.errors[0]!.message, /refuses the report that a push was opened/);
  assert.deepEqual(await numbers("push").then(({ delivered, opened }) => [delivered, opened]), [1, 0]);
  const again = await start("push-bo", "push", { ...options, storage: new MemoryStorage() });
  await again.push.opened(message.data);
  await again.push.opened(message.data);
  const counted = async () => String(await numbers("push").then(({ sent, delivered, opened }) => [sent, delivered, opened]));
  await eventually("all is counted, once", async () => (await counted()) === "1,1,1");
  assert.deepEqual(again.errors, []);
  assert.deepEqual(links, ["app://task/t1", "app://task/t1"], "once on each installation");
  await eventually("the badge shows it", () => badges.includes(1));
  const item = again.push.inbox.state.get().notifications[0]!;
  assert.deepEqual([item.title, item.nid, item.read_at], ["Leak", message.data.nid, undefined]);
  await again.push.inbox.read(item.nid);
  assert.equal(badges.at(-1), 0);
  assert.ok(again.push.inbox.state.get().notifications[0]!.read_at! > 0);
});

test("one logs out and another in on the same device: each gets what is theirs", async () => {
  const ana = await start("tablet-ana", "tablet");
  await phone(ana, "tablet");
  await ana.push.unregister();
  assert.deepEqual(await devices(ana.client), []);
  // Ana comes back and leaves without a word: the device is Bo's as soon as Bo is in.
  await phone(ana, "tablet");
  ana.push.stop();
  await ana.client.close();
  const bo = await start("tablet-bo", "tablet");
  await phone(bo, "tablet");
  await eventually("the device is bo's", async () => (await devices(bo.client)).length === 1);
  bo.push.stop();
  await bo.client.close();

  const boss = await start("tablet-boss", "tablet");
  await write(boss.client, "tablet", { users: ["tablet-ana"], title: "for ana", lane: "high" });
  await write(boss.client, "tablet", { users: ["tablet-bo"], title: "for bo", lane: "high" });
  assert.equal((await arrived("tablet")).title, "for bo");
  const away = await start("tablet-ana", "tablet");
  await eventually("ana has hers in the inbox", () => away.push.inbox.state.get().unread === 1);
  assert.deepEqual((await pushed("tablet")).map(({ title }) => title), ["for bo"]);
});

test("the inbox comes in pages, and is read and seen up to what the user has before them", async () => {
  const bo = await start("inbox-bo", "inbox", { inbox: { project: "inbox", limit: 2 } });
  const live: string[] = [];
  bo.client.on("notification", ({ nid }) => live.push(nid));
  const ana = await start("inbox-ana", "inbox");
  for (const title of ["one", "two", "three"]) await write(ana.client, "inbox", { users: ["inbox-bo"], title, lane: "normal" });
  const { inbox } = bo.push;
  const titles = () => inbox.state.get().notifications.map(({ title }) => title);
  await eventually("all are known", () => inbox.state.get().unread === 3);
  assert.deepEqual([titles(), inbox.state.get().more], [["three", "two"], true]);
  await inbox.more();
  assert.deepEqual([titles(), inbox.state.get().more], [["three", "two", "one"], false]);
  await eventually("each came live once", () => live.length === 3);
  await inbox.readAll(inbox.state.get().notifications[1]!.nid);
  assert.equal(inbox.state.get().unread, 1);
  await inbox.seen();
  assert.ok(inbox.state.get().notifications.every(({ seen_at }) => seen_at! > 0));
  assert.deepEqual((await inbox.page({ unread: true })).notifications.map(({ title }) => title), ["three"]);
  // A live one was shown; the same as a push is not.
  assert.equal(bo.push.first({ nid: live[0] }), false);
});
