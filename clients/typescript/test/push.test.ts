/** Pushes in an app, with the hub's and Expo's part played by the test. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Client, createClient } from "../src/client.js";
import type { SynclineError } from "../src/errors.js";
import type { ServerFrame } from "../src/protocol/server.gen.js";
import { allowedLink, pushData } from "../src/push/links.js";
import { type NotificationLike, openPush, type PushOptions, registerPush } from "../src/push/index.js";
import { MemoryStorage } from "../src/storage/memory.js";
import type { DeviceInfo } from "../src/push/device.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

const DAY = 86_400_000;
const PHONE: DeviceInfo = { token: "ExponentPushToken[one]", platform: "ios", locale: "pt-BR", tz: "Europe/Lisbon", appVersion: "1.0", model: "iPhone" };

/** A hub that knows push devices, reports and an inbox, and a device that outlives its app. */
class World {
  readonly hub = new FakeHub();
  readonly clock = new TestClock();
  /** The store of whoever is logged in. */
  storage = new MemoryStorage();
  /** What was said about devices, each with whose session said it. */
  readonly devices: Record<string, unknown>[] = [];
  readonly posts: { path: string; body: Record<string, unknown> }[] = [];
  readonly errors: SynclineError[] = [];
  readonly links: string[] = [];
  readonly badges: number[] = [];
  user = "ana";
  unread = 0;
  inboxReads = 0;
  /** Refuses a frame or a request with a code. */
  refuse: (what: string) => string | undefined = () => undefined;

  constructor() {
    this.hub.instead = (frame, socket) => {
      const { id } = frame as { id?: number };
      if (frame.type === "connect") {
        socket.tell({ type: "connected", id, session: "1", user: this.user, server_time: 0, ttl: 3600, ping_interval: 1e6, projects: {}, limits: {} } as unknown as ServerFrame);
        return true;
      }
      if (frame.type !== "push_device") return false;
      const { id: _id, type: _type, ...said } = frame;
      this.devices.push({ user: this.user, ...said });
      const code = this.refuse("device");
      if (code === "lost") this.hub.cut();
      else socket.tell((code ? { type: "error", id, code, message: code } : { type: "ok", id }) as ServerFrame);
      return true;
    };
  }

  private readonly fetch = async (url: string, init: { method: string; body?: string; headers?: Record<string, string> }) => {
    if (!this.hub.online) throw new TypeError("the network is down");
    const { pathname } = new URL(url);
    const code = this.refuse(pathname);
    if (init.method === "POST") this.posts.push({ path: pathname, body: JSON.parse(init.body || "{}") as Record<string, unknown> });
    else this.inboxReads++;
    const body = code ? { code, detail: code } : { notifications: [], unread: this.unread };
    return { ok: !code, status: code ? 400 : 200, headers: { get: () => null }, text: async () => JSON.stringify(body) };
  };

  app(): Promise<Client> {
    const { clock, storage, hub } = this;
    return createClient({ url: "http://hub.test", getToken: () => "t", user: this.user, clock, storage, openSocket: hub.openSocket, fetch: this.fetch, hints: () => () => {} });
  }

  options(more: Partial<PushOptions> = {}): PushOptions {
    return {
      schemes: ["app"],
      onLink: (link) => void this.links.push(link),
      onError: (error) => void this.errors.push(error),
      setBadge: (count) => void this.badges.push(count),
      ...more,
    };
  }

  async start(more: Partial<PushOptions> = {}) {
    const client = await this.app();
    const push = await openPush(client, this.options(more));
    return { client, push, stop: () => (push.stop(), client.disconnect()) };
  }

  tell(nid: string): void {
    this.hub.tell({ type: "notification", nid, project: "p", seq: 1, title: "t", body: "", lane: "high", at: 0 } as ServerFrame);
  }

  reports(): string[] {
    return this.posts.filter(({ path }) => path.startsWith("/v1/push/")).map(({ path, body }) => `${path.slice(9)} ${String(body["nid"])} ${String(body["report"])}`);
  }
}

test("a device registers once with each start, and again when anything about it changes", async () => {
  const world = new World();
  let { client, push, stop } = await world.start();
  await push.register(PHONE);
  assert.equal(world.devices.length, 0, "there is no session yet");
  await client.connect();
  await settle();
  assert.deepEqual(world.devices, [
    { user: "ana", provider: "expo", token: PHONE.token, platform: "ios", locale: "pt-BR", tz: "Europe/Lisbon", app_version: "1.0", model: "iPhone" },
  ]);
  await push.register({ ...PHONE });
  world.hub.cut();
  await world.clock.advance(5000);
  assert.equal(world.devices.length, 1, "the hub knows");
  await push.register({ ...PHONE, locale: "de" });
  await push.register({ ...PHONE, locale: undefined });
  assert.deepEqual(world.devices.slice(1).map(({ locale }) => locale), ["de", undefined]);
  stop();

  // Somebody else logs in, with a store of their own, and the first one comes back: each time the token goes along.
  const { storage } = world;
  for (const [user, theirs] of [["bo", new MemoryStorage()], ["ana", storage]] as const) {
    Object.assign(world, { user, storage: theirs });
    ({ client, push, stop } = await world.start());
    await push.register({ ...PHONE, locale: undefined });
    await client.connect();
    await settle();
    world.hub.cut();
    await world.clock.advance(5000);
    stop();
  }
  assert.deepEqual(world.devices.slice(3).map(({ user, token }) => [user, token]), [["bo", PHONE.token], ["ana", PHONE.token]]);

  // The app starts again, and goes on for a day: once each, in case the hub gave the token up.
  ({ client, push, stop } = await world.start());
  await client.connect();
  await settle();
  assert.equal(world.devices.length, 6);
  client.disconnect();
  await world.clock.advance(DAY);
  await client.connect();
  await settle();
  assert.equal(world.devices.length, 7);
  stop();
});

test("a device that the hub refuses is told to the app; one that it cannot take now is tried again", async () => {
  const world = new World();
  const { client, push, stop } = await world.start();
  world.refuse = () => "unavailable";
  await client.connect();
  await push.register(PHONE);
  assert.equal(world.devices.length, 1);
  world.refuse = () => "bad_request";
  await world.clock.advance(60_000);
  assert.equal(world.devices.length, 2);
  assert.deepEqual(world.errors.map(({ message }) => message), ["bad_request"]);
  world.hub.cut();
  await world.clock.advance(60_000);
  assert.equal(world.devices.length, 2, "the same is refused again");
  world.refuse = () => undefined;
  await push.register({ ...PHONE, token: "ExponentPushToken[two]" });
  assert.deepEqual([world.devices.length, world.errors.length], [3, 1]);
  stop();
});

test("a user who logs out takes the device along, and is told if the hub could not be", async () => {
  const world = new World();
  const { client, push, stop } = await world.start();
  await push.unregister();
  await push.register(PHONE);
  await client.connect();
  await settle();
  await push.unregister();
  assert.deepEqual(world.devices.map(({ token }) => token), [PHONE.token, null]);
  world.hub.cut();
  await world.clock.advance(5000);
  assert.equal(world.devices.length, 2, "nothing is to be said any more");

  await push.register(PHONE);
  client.disconnect();
  await push.unregister();
  const [over] = world.posts.filter(({ path }) => path === "/v1/push/devices");
  assert.deepEqual(over?.body, { client: client.clientId, provider: "expo", token: null }, "without a socket, over HTTP");

  await client.connect();
  await push.register(PHONE);
  client.disconnect();
  world.hub.online = false;
  await assert.rejects(push.unregister(), /cannot be reached/);
  world.hub.online = true;
  await client.connect();
  await settle();
  assert.deepEqual([world.devices.at(-1)!["user"], world.devices.at(-1)!["token"]], ["ana", null]);

  await push.register(PHONE);
  world.refuse = () => "lost";
  await assert.rejects(push.unregister(), /no connection/);
  world.refuse = () => undefined;
  await push.register(PHONE);
  await world.clock.advance(5000);
  assert.equal(world.devices.at(-1)!["token"], PHONE.token, "the hub may have forgotten it all the same");
  stop();
});

test("reports wait for the network, over restarts, and are dropped when the hub refuses them", async () => {
  const world = new World();
  let { push, stop } = await world.start();
  world.hub.online = false;
  await push.received({ nid: "n1", report: "1.aa" });
  await push.opened({ nid: "n1", report: "1.aa" });
  await push.received({ nid: "n2" });
  await push.received({ body: "of somebody else" });
  stop();
  ({ push, stop } = await world.start());
  await settle();
  assert.deepEqual(world.reports(), []);
  world.hub.online = true;
  await world.clock.advance(60_000);
  assert.deepEqual(world.reports().sort(), ["opened n1 1.aa", "received n1 1.aa"]);
  world.refuse = () => "unavailable";
  await push.received({ nid: "n3", report: "1.cc" });
  world.refuse = () => "forbidden";
  await world.clock.advance(60_000);
  assert.equal(world.reports().filter((one) => one === "received n3 1.cc").length, 2);
  assert.deepEqual(world.errors.map(({ message }) => message), ["the hub refuses the report that a push was received: forbidden"]);
  world.refuse = () => undefined;
  await push.received({ nid: "n4", report: "1.dd" });
  assert.equal(world.reports().length, 5, "what was refused does not come again");
  stop();
});

test("reports that wait are bounded: the oldest go, and the app hears of it", async () => {
  const world = new World();
  world.hub.online = false;
  const { push, stop } = await world.start();
  for (let n = 0; n < 203; n++) {
    await push.received({ nid: `n${n}`, report: "1.aa" });
    await world.clock.advance(1);
  }
  assert.match(world.errors.at(-1)!.message, /1 reports of pushes were given up/);
  world.hub.online = true;
  await world.clock.advance(60_000);
  assert.deepEqual([world.reports().length, world.reports()[0]], [200, "received n3 1.aa"]);
  stop();
});

test("only links of schemes the app names are followed, each once", async () => {
  for (const link of ["javascript:alert(1)", "JavaScript:alert(1)", "app", "app:", ":x", "//evil.test", "app://a b", "app://\u0000", " app://x", `app://${"x".repeat(2048)}`, "https://hub.test"]) {
    assert.throws(() => allowedLink(link, ["app"]), { name: "LinkError" }, link);
  }
  assert.equal(allowedLink("APP://task/t1?x=ü", ["app", "https"]), "APP://task/t1?x=ü");
  for (const data of [null, "n1", 7, {}, { nid: 7 }, { nid: "" }, { nid: "x".repeat(201) }]) assert.equal(pushData(data), undefined);
  assert.deepEqual(pushData({ nid: "n", report: 7, link: {}, data: "x", project: "p", other: 1 }), { nid: "n", project: "p" });

  const world = new World();
  let { push, stop } = await world.start();
  await push.opened({ nid: "n1", report: "1.aa", link: "javascript:alert(1)" });
  assert.match(world.errors[0]!.message, /`javascript`: name it in `schemes`/);
  await push.opened({ nid: "n2", report: "1.aa", link: "app://task/t1" });
  await push.opened({ nid: "n2", report: "1.aa", link: "app://task/t1" });
  stop();
  ({ push, stop } = await world.start());
  await push.opened({ nid: "n2", report: "1.aa", link: "app://task/t1" });
  assert.deepEqual(world.links, ["app://task/t1"]);
  assert.deepEqual(world.reports(), ["opened n1 1.aa", "opened n2 1.aa"], "a refused link was opened all the same");
  stop();
});

test("a notification is shown once, live or as a push, before and after a restart", async () => {
  const world = new World();
  let { client, push, stop } = await world.start();
  const heard: string[] = [];
  client.on("notification", ({ nid }) => heard.push(nid));
  await client.connect();
  world.tell("n1");
  world.tell("n1");
  await settle();
  assert.deepEqual(heard, ["n1"]);
  assert.equal(push.first({ nid: "n1" }), false);
  assert.equal(push.first({ nid: "n2" }), true);
  assert.equal(push.first({ title: "not of the hub" }), true);
  world.tell("n2");
  await push.opened({ nid: "n3" });
  world.tell("n3");
  await settle();
  assert.deepEqual(heard, ["n1"]);
  stop();
  ({ client, push, stop } = await world.start());
  assert.equal(push.first({ nid: "n1" }), false);
  for (let n = 0; n < 200; n++) push.first({ nid: `other-${n}` });
  assert.equal(push.first({ nid: "n1" }), true, "what is remembered is bounded");
  await settle();
  assert.equal(((await world.storage.get("meta", "shown")) as string[]).length, 200);
  stop();
});

test("the badge is what the hub says is unread, and the inbox is read no more often than needed", async () => {
  const world = new World();
  world.unread = 3;
  const { client, push, stop } = await world.start({ inbox: { project: "p" } });
  await client.connect();
  await settle();
  assert.deepEqual([world.badges, world.inboxReads], [[3], 1]);
  world.unread = 5;
  for (let n = 0; n < 10; n++) world.tell(`n${n}`);
  await settle();
  assert.deepEqual([world.badges, world.inboxReads], [[3, 5], 3], "once at once, once more for the rest");
  world.unread = 0;
  await push.inbox.readAll("n9");
  assert.deepEqual(world.posts.at(-1), { path: "/v1/notifications/read-all", body: { project: "p", up_to: "n9" } });
  assert.deepEqual(world.badges, [3, 5, 0]);
  world.refuse = () => "unavailable";
  await push.inbox.refresh();
  assert.equal(push.inbox.state.get().problem?.message, "unavailable");
  world.refuse = () => undefined;
  world.unread = 2;
  await push.inbox.refresh();
  await push.unregister();
  assert.deepEqual(world.badges, [3, 5, 0, 2, 0], "the next user sees nothing of it");
  stop();
});

/** `expo-notifications` as a phone would run it. */
function phone(granted: boolean) {
  const listeners: Record<string, (event: never) => void> = {};
  const on = (name: string) => (listener: (event: never) => void) => ((listeners[name] = listener), { remove: () => void delete listeners[name] });
  const state = {
    listeners,
    asked: 0,
    channels: [] as string[],
    token: "ExponentPushToken[one]",
    last: null as { notification: NotificationLike } | null,
    handler: null as { handleNotification(notification: NotificationLike): Promise<{ shouldShowBanner: boolean }> } | null,
    rotated: undefined as string | undefined,
    badge: 0,
  };
  const module = {
    getPermissionsAsync: async () => ({ granted: false, canAskAgain: true }),
    requestPermissionsAsync: async () => (state.asked++, { granted }),
    getExpoPushTokenAsync: async ({ devicePushToken }: { devicePushToken?: string }) => ((state.rotated = devicePushToken), { data: state.token }),
    addPushTokenListener: on("token"),
    addNotificationReceivedListener: on("received"),
    addNotificationResponseReceivedListener: on("response"),
    getLastNotificationResponse: () => state.last,
    setNotificationHandler: (handler: typeof state.handler) => void (state.handler = handler),
    setNotificationChannelAsync: async (id: string) => void state.channels.push(id),
    setBadgeCountAsync: async (count: number) => void (state.badge = count),
  };
  return { state, module };
}

const notification = (data: unknown): NotificationLike => ({ request: { content: { data } } });

test("an Expo app registers, follows its token, and takes what comes", async () => {
  const world = new World();
  const { setBadge: _setBadge, ...options } = world.options();
  const client = await world.app();
  const { state, module } = phone(true);
  state.last = { notification: notification({ nid: "n0", report: "1.aa", link: "app://cold" }) };
  world.unread = 4;
  await client.connect();
  const push = await registerPush(client, {
    ...options,
    notifications: module,
    device: { modelName: "Pixel" },
    localization: { getLocales: () => [{ languageTag: "pt-BR" }], getCalendars: () => [{ timeZone: "America/Sao_Paulo" }] },
    application: { nativeApplicationVersion: "2.1" },
    platform: "android",
    projectId: "expo-project",
  });
  await settle();
  assert.deepEqual(world.devices, [
    { user: "ana", provider: "expo", token: "ExponentPushToken[one]", platform: "android", locale: "pt-BR", tz: "America/Sao_Paulo", app_version: "2.1", model: "Pixel" },
  ]);
  assert.deepEqual([state.asked, state.channels, state.badge], [1, ["critical", "high", "normal"], 4]);
  assert.deepEqual([world.links, world.reports()], [["app://cold"], ["opened n0 1.aa"]], "the push that started the app");

  state.token = "ExponentPushToken[two]";
  state.listeners["token"]!("native" as never);
  await settle();
  assert.deepEqual([state.rotated, world.devices.at(-1)!["token"]], ["native", "ExponentPushToken[two]"]);

  world.tell("n1");
  await settle();
  const shown = async (nid: string) => (await state.handler!.handleNotification(notification({ nid }))).shouldShowBanner;
  assert.deepEqual([await shown("n1"), await shown("n2"), await shown("n2")], [false, true, false]);
  state.listeners["received"]!(notification({ nid: "n2", report: "1.bb" }) as never);
  state.listeners["response"]!({ notification: notification({ nid: "n2", report: "1.bb", link: "app://warm" }) } as never);
  await settle();
  assert.deepEqual(world.reports().slice(1).sort(), ["opened n2 1.bb", "received n2 1.bb"]);
  assert.deepEqual([world.links, world.errors], [["app://cold", "app://warm"], []]);
  push.stop();
  assert.deepEqual([Object.keys(state.listeners), state.handler], [[], null]);
  client.disconnect();
});

test("another time zone or language is told with the next session, and nothing of a device that was taken out", async () => {
  const world = new World();
  const client = await world.app();
  let [locale, timeZone] = ["pt-BR", "America/Sao_Paulo"];
  const localization = { getLocales: () => [{ languageTag: locale }], getCalendars: () => [{ timeZone }] };
  const { module } = phone(true);
  const push = await registerPush(client, { ...world.options(), notifications: module, localization, platform: "ios" });
  await client.connect();
  await settle();
  const again = async () => {
    client.disconnect();
    await client.connect();
    await settle();
    return world.devices.map((said) => [said["locale"], said["tz"]]);
  };
  const before = ["pt-BR", "America/Sao_Paulo"];
  assert.deepEqual(await again(), [before]);
  [locale, timeZone] = ["pt-PT", "Europe/Lisbon"];
  const told = await again();
  assert.deepEqual(told.at(-1), [locale, timeZone]);
  assert.deepEqual(await again(), told, "the hub knows");
  await push.unregister();
  const { length } = world.devices;
  [locale, timeZone] = before as [string, string];
  assert.equal((await again()).length, length);
  push.stop();
  client.disconnect();
});

test("without the user's leave, or a token, all but the registration works", async () => {
  const world = new World();
  const client = await world.app();
  const refused = phone(false);
  const push = await registerPush(client, { ...world.options(), notifications: refused.module, platform: "ios" });
  await client.connect();
  await settle();
  assert.deepEqual([world.devices, world.errors, refused.state.channels], [[], [], []]);
  push.stop();
  const broken = phone(true);
  broken.module.getExpoPushTokenAsync = async () => {
    throw new Error("no Play services");
  };
  const other = await registerPush(client, { ...world.options(), notifications: broken.module, platform: "ios" });
  assert.match(world.errors[0]!.message, /got no push token: Error: no Play services/);
  other.stop();
  client.disconnect();
});
