/** When another token is worth fetching, and when the user has to log in again. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { AuthError } from "../src/errors.js";
import { syncNow } from "../src/sync.js";
import type { TokenReason } from "../src/token.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

const HOUR = 3_600_000;

/** A client whose tokens are numbered, and those that the hub takes no more. */
async function setup(): Promise<{ world: World; asked: TokenReason[]; ended: Set<string> }> {
  const asked: TokenReason[] = [];
  const ended = new Set<string>();
  const world = new World();
  world.hub.check = (token) => (ended.has(token) ? "token_expired" : undefined);
  await world.start({ getToken: (reason) => `token-${asked.push(reason)}` });
  return { world: await world.online(), asked, ended };
}

const connection = ({ client }: World) => client.status.get().connection;

test("an outage longer than a token's life logs nobody out", async () => {
  const { world, asked, ended } = await setup();
  const { hub, clock } = world;
  hub.online = false;
  hub.cut();
  await clock.advance(2 * HOUR);
  assert.deepEqual(asked, ["initial", "expired"]);
  await clock.advance(2 * HOUR);
  // The second one was never shown, and has aged out as well.
  for (const token of ["token-1", "token-2"]) ended.add(token);
  hub.online = true;
  await clock.advance(60_000);
  assert.equal(connection(world), "online");
  assert.deepEqual(asked, ["initial", "expired", "expired"]);
});

test("a token renewed in vain before an outage is not held against the user", async () => {
  const { world, asked, ended } = await setup();
  const { hub, clock } = world;
  hub.instead = ({ type }) => type === "refresh";
  hub.tell({ type: "token_expiring", ttl: 60 });
  await settle();
  hub.instead = undefined;
  hub.online = false;
  hub.cut();
  await clock.advance(2 * HOUR);
  for (const token of ["token-1", "token-2"]) ended.add(token);
  hub.online = true;
  hub.instead = (frame, socket) => {
    // As hubs do when the token was in the handshake.
    const refused = frame.type === "connect" && ended.has(frame.token ?? "");
    if (refused) socket.closeFromHub(4100, "token_expired");
    return refused;
  };
  await clock.advance(120_000);
  assert.equal(connection(world), "online");
  assert.deepEqual(asked, ["initial", "expired", "expired"]);
});

test("after an outage, too, a fresh token that is refused is the end", async () => {
  const { world, asked } = await setup();
  const { hub, clock } = world;
  hub.online = false;
  hub.cut();
  await clock.advance(2 * HOUR);
  hub.check = () => "token_expired";
  hub.online = true;
  await clock.advance(2 * HOUR);
  assert.equal(connection(world), "refused");
  assert.ok(world.client.status.get().problem instanceof AuthError);
  assert.equal(asked.length, 3);
});

test("a socket that ends with its token does not condemn the one that HTTP got meanwhile", async () => {
  const { world, asked, ended } = await setup();
  const { hub, clock } = world;
  hub.write("task", "t1", { title: "one" });
  ended.add("token-1");
  assert.equal((await world.project.fetch("task", "t1"))?.fields["title"], "one");
  assert.deepEqual(asked, ["initial", "expired"]);
  hub.cut(4100, "token_expired");
  await clock.advance(10_000);
  assert.equal(connection(world), "online");
});

test("a token that does not come is given up and asked for again, ever later, until it comes", async () => {
  const world = new World();
  let asked = 0;
  let come: ((token: string) => void) | undefined;
  await world.start({ getToken: () => (++asked < 3 ? new Promise((resolve) => (come ??= resolve)) : "token") });
  void world.client.connect();
  await world.project.insert("task", { title: "one" }, { id: "t1" }).local;
  await world.clock.advance(29_999);
  assert.deepEqual([asked, connection(world)], [1, "connecting"]);
  await world.clock.advance(1);
  assert.deepEqual([asked, connection(world)], [1, "waiting"]);
  assert.match(world.client.status.get().problem!.message, /getToken does not answer/);
  await world.clock.advance(600 + 29_999);
  assert.deepEqual([asked, connection(world)], [2, "connecting"]);
  // What comes after its time may have ended meanwhile.
  come!("too late");
  await world.clock.advance(2000);
  assert.deepEqual([asked, connection(world), world.hub.head], [3, "online", 1]);
  assert.deepEqual(world.hub.heard.flatMap((frame) => (frame.type === "connect" ? [frame.token] : [])), ["token"]);
  await world.clock.advance(60_000);
  assert.equal(asked, 3);
});

test("a token that takes longer than the hub waits for it comes to the next connection", async () => {
  const world = new World();
  const asked: TokenReason[] = [];
  let come!: (token: string) => void;
  world.hub.check = (token) => (token === "old" ? "token_expired" : undefined);
  const slow = new Promise<string>((resolve) => (come = resolve));
  await world.start({ getToken: (reason) => (asked.push(reason) === 1 ? "old" : slow) });
  void world.client.connect();
  await world.clock.advance(10_000);
  world.hub.cut(4408, "connect_timeout");
  await world.clock.advance(2000);
  assert.equal(connection(world), "connecting");
  come("new");
  await settle();
  assert.deepEqual([connection(world), asked], ["online", ["initial", "expired"]]);
});

for (const how of ["the socket", "HTTP", "the session"] as const) {
  test(`a login after a token was refused by ${how} for good brings another token`, async () => {
    const world = new World();
    const asked: TokenReason[] = [];
    let trusted = "token-1";
    await world.start({ getToken: (reason) => `token-${asked.push(reason)}` });
    const refused = (token: string) => (token === trusted ? undefined : "unauthorized");
    if (how === "the session") {
      await world.online();
      world.hub.check = refused;
      world.hub.cut(4401, "unauthorized");
    } else {
      trusted = "token-2";
      world.hub.check = refused;
      const work = how === "HTTP" ? world.project.fetch("task", "t1") : world.client.connect();
      await assert.rejects(work, AuthError);
    }
    trusted = "token-2";
    await world.clock.advance(60_000);
    assert.notEqual(connection(world), "online");
    assert.deepEqual(asked, ["initial"], "nobody is asked by itself");
    await world.client.connect();
    assert.deepEqual([connection(world), asked], ["online", ["initial", "revoked"]]);
  });
}

test("a fresh token that is refused over HTTP, too, ends the session and costs no edit", async () => {
  const world = new World();
  const asked: TokenReason[] = [];
  world.hub.check = () => "token_expired";
  await world.start({ getToken: (reason) => `token-${asked.push(reason)}` });
  await world.project.insert("task", { title: "one" }, { id: "t1" }).local;
  const { error } = await syncNow(world.client);
  assert.match(error ?? "", /token is refused/);
  assert.deepEqual([asked, world.project.pending().map(({ state }) => state)], [["initial", "expired"], ["queued"]]);
  await assert.rejects(world.project.fetch("task", "t1"), AuthError);
});
