/** What a client does after each close code, by the ranges of docs/PROTOCOL.md. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { AuthError, ClosedError, DisconnectedError } from "../src/errors.js";
import type { TokenReason } from "../src/token.js";
import { settle } from "./support/clock.js";
import { World } from "./support/world.js";

/** With half of what there is to draw: the least wait and half of the first ceiling. */
const SOON = 100 + 1000 / 2;
const LATER = 2000 + 10_000 / 2;

interface Expected {
  /** The wait before the next attempt; none is made without one. */
  wait?: number;
  problem: new (...given: never[]) => Error;
  asked: TokenReason[];
}

const RECONNECT: Expected = { wait: SOON, problem: DisconnectedError, asked: ["initial"] };
const STOP: Expected = { problem: ClosedError, asked: ["initial"] };
const refresh = (reason: TokenReason): Expected => ({ ...RECONNECT, asked: ["initial", reason] });

/** The hub's own codes, the ends of the ranges, and codes of later hubs. */
const CODES: [Expected, number[]][] = [
  [RECONNECT, [1001, 1006, 4000, 4001, 4002, 4003, 4050, 4099, 4408]],
  [refresh("expired"), [4100, 4150, 4199]],
  [refresh("revoked"), [4101]],
  [{ ...RECONNECT, wait: LATER }, [4200, 4201, 4250, 4299]],
  [STOP, [4400, 4403, 4409, 4413, 4450, 4499]],
  [{ ...STOP, problem: AuthError }, [4401]],
];

test("every code of the hub is here", () => {
  const { definitions } = JSON.parse(readFileSync("schema/server.json", "utf8")) as { definitions: { CloseCode: { enum: number[] } } };
  const known = new Set(CODES.flatMap(([, codes]) => codes));
  assert.deepEqual(definitions.CloseCode.enum.filter((code) => !known.has(code)), []);
});

for (const [{ wait, problem, asked }, codes] of CODES) {
  for (const code of codes) {
    test(`${code}: ${wait === undefined ? "stop" : `reconnect after ${wait} ms`}, tokens ${asked.join(", ")}`, async () => {
      const reasons: TokenReason[] = [];
      const world = await new World().start({ getToken: (reason) => `token-${reasons.push(reason)}` });
      const { hub, clock, client } = await world.online();
      // Until nothing is timed but the connection.
      await clock.advance(1000);
      hub.cut(code, "why");
      await settle();
      const lost = client.status.get();
      assert.equal(lost.connection, wait === undefined ? "refused" : "waiting");
      assert.ok(lost.problem instanceof problem, String(lost.problem));
      assert.match(lost.problem.message, /why/);
      assert.equal(clock.next, wait ?? Infinity);
      await clock.advance(600_000);
      assert.equal(client.status.get().connection, wait === undefined ? "refused" : "online");
      assert.deepEqual(reasons, asked);
      // Final is final until the app says otherwise.
      await client.connect();
      assert.equal(client.status.get().connection, "online");
    });
  }
}
