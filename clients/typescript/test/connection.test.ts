/** How a connection comes, stays, is lost and comes back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { AuthError } from "../src/errors.js";
import { type Client, type ClientOptions, createClient } from "../src/client.js";
import type { TokenReason } from "../src/token.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

async function setup(options: Partial<ClientOptions> = {}): Promise<{ hub: FakeHub; clock: TestClock; client: Client; asked: TokenReason[] }> {
  const hub = new FakeHub();
  const clock = new TestClock();
  const asked: TokenReason[] = [];
  const getToken = (reason: TokenReason) => {
    asked.push(reason);
    return `token-${asked.length}`;
  };
  const client = await createClient({
    url: "http://hub.test",
    getToken,
    user: hub.user,
    clock,
    openSocket: hub.openSocket,
    fetch: hub.fetch,
    hints: () => () => {},
    ...options,
  });
  return { hub, clock, client, asked };
}

test("everyone who connects waits for the same connection", async () => {
  const { hub, client } = await setup();
  await Promise.all([client.connect(), client.connect(), client.connect()]);
  assert.equal(hub.sockets.length, 1);
  assert.equal(client.status.get().connection, "online");
  assert.equal(client.status.get().user, "ana");
});

test("an expired token on wake-up is replaced on the same socket", async () => {
  const { hub, client, asked } = await setup();
  hub.check = (token) => (token === "token-1" ? "token_expired" : undefined);
  await client.connect();
  assert.deepEqual(asked, ["initial", "expired"]);
  assert.equal(hub.sockets.length, 1);
});

test("a fresh token that is refused is the end, not a loop", async () => {
  const { hub, client, asked, clock } = await setup();
  hub.check = () => "token_expired";
  await assert.rejects(client.connect(), AuthError);
  await clock.advance(600_000);
  assert.deepEqual(asked, ["initial", "expired"]);
  assert.equal(client.status.get().connection, "refused");
});

test("a token that cannot be trusted is refused at once", async () => {
  const { hub, client, asked, clock } = await setup();
  hub.check = () => "unauthorized";
  await assert.rejects(client.connect(), AuthError);
  await clock.advance(600_000);
  assert.deepEqual(asked, ["initial"]);
});

test("an app that says the user must log in ends it; one that is offline is asked again", async () => {
  let answer = new Error("no network");
  const { client, clock } = await setup({
    getToken: () => {
      throw answer;
    },
  });
  const connected = client.connect();
  await clock.advance(5000);
  assert.equal(client.status.get().connection, "waiting");
  answer = new AuthError("log in");
  await clock.advance(60_000);
  await assert.rejects(connected, AuthError);
  assert.equal(client.status.get().connection, "refused");
});

test("waits grow with full jitter, and begin anew only after a stable time", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  const waits: number[] = [];
  // Each connection is lost right after it was made: the back-off must go on growing.
  for (let round = 0; round < 6; round++) {
    hub.cut();
    await settle();
    waits.push(clock.next);
    await clock.advance(waits.at(-1)!);
    assert.equal(client.status.get().connection, "online");
  }
  assert.deepEqual(waits, [600, 1100, 2100, 4100, 8100, 15_100]);
  await clock.advance(10_000);
  hub.cut();
  await settle();
  assert.equal(clock.next, 600);
});

test("a clock that is set back makes the hub's pace no longer, and the next attempts keep to their own", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  hub.tell({ type: "goodbye", reason: "shutting_down", reconnect_in_ms: 7000, resume: true });
  clock.skew = -3_600_000;
  hub.cut(4000, "shutting_down");
  hub.online = false;
  await clock.advance(7100);
  assert.equal(client.status.get().connection, "waiting");
  hub.online = true;
  client.hint("online");
  await clock.advance(1100);
  assert.equal(client.status.get().connection, "online");
});

test("the hub's pace for a goodbye is kept, also against hints", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  hub.tell({ type: "goodbye", reason: "shutting_down", reconnect_in_ms: 7000, resume: true });
  hub.cut(4000, "shutting_down");
  await clock.advance(2000);
  client.hint("online");
  await clock.advance(4900);
  assert.equal(client.status.get().connection, "waiting");
  await clock.advance(200);
  assert.equal(client.status.get().connection, "online");
});

test("4100 fetches a token before it reconnects; a full hub is given more time", async () => {
  const { hub, client, clock, asked } = await setup();
  await client.connect();
  hub.cut(4101, "token_revoked");
  await clock.advance(1000);
  assert.deepEqual(asked, ["initial", "revoked"]);
  hub.cut(4200, "over_capacity");
  await settle();
  assert.ok(clock.next >= 2000 + 5000);
});

test("a token is renewed before it ends", async () => {
  const { hub, client, asked } = await setup();
  await client.connect();
  hub.tell({ type: "token_expiring", ttl: 60 });
  await settle();
  assert.deepEqual(asked, ["initial", "expired"]);
  assert.deepEqual(hub.heard.at(-1), { type: "refresh", token: "token-2", id: 2 });
});

test("silence is broken by a ping, and a dead connection is found", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  await clock.advance(25_000);
  assert.equal(hub.heard.at(-1)?.type, "ping");
  await clock.advance(10_000);
  assert.equal(client.status.get().connection, "online");
  hub.instead = () => true;
  await clock.advance(40_000);
  assert.notEqual(client.status.get().connection, "online");
});

test("a dead connection is found also if the clock is set back", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  clock.skew = -86_400_000;
  hub.instead = () => true;
  await clock.advance(60_000);
  assert.notEqual(client.status.get().connection, "online");
});

test("hints make an attempt sooner, and report foreground and background", async () => {
  const { hub, client, clock } = await setup();
  await client.connect();
  client.hint("background");
  client.hint("foreground");
  await settle();
  const acks = hub.heard.filter(({ type }) => type === "ack");
  assert.deepEqual(acks, [{ type: "ack", active: false }, { type: "ack", active: true }]);
  hub.online = false;
  hub.cut();
  await clock.advance(300_000);
  hub.online = true;
  assert.equal(client.status.get().connection, "waiting");
  await clock.advance(1500);
  client.hint("online");
  await settle();
  assert.equal(client.status.get().connection, "online");
});

test("what was asked fails when the connection breaks, and frames of later hubs are skipped", async () => {
  const { hub, client } = await setup();
  await client.connect();
  hub.tell({ type: "telepathy" } as never);
  hub.instead = () => true;
  const asked = client.parts.connection.ask({ type: "unsubscribe", rooms: [] });
  await settle();
  hub.cut();
  await assert.rejects(asked, /no connection/);
});
