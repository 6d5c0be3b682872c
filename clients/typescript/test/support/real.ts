/** Clients of the real hub that `scripts/with-hub` runs. */

import { createHmac } from "node:crypto";
import { WebSocket } from "ws";
import { type Client, type ClientOptions, createClient } from "../../src/client.js";
import type { OpenSocket } from "../../src/platform.js";

const { SYNCLINE_TEST_EDGE = "", SYNCLINE_TEST_SECRET = "", SYNCLINE_TEST_DEV = "", SYNCLINE_TEST_ADMIN = "", SYNCLINE_TEST_PIDS = "", SYNCLINE_TEST_EXPO = "" } = process.env;
export const EDGE = SYNCLINE_TEST_EDGE;
export const DEV = SYNCLINE_TEST_DEV;
/** The stand-in for Expo that the edge's pushes go to. */
export const EXPO = SYNCLINE_TEST_EXPO;
/** The three instances behind the edge. */
export const PIDS = SYNCLINE_TEST_PIDS.split(" ").map(Number);

/** Does something as the administrator. */
export async function admin(method: string, path: string, body?: unknown): Promise<void> {
  const headers = { authorization: `Bearer ${SYNCLINE_TEST_ADMIN}`, "content-type": "application/json" };
  const answer = await fetch(`${EDGE}/v1/admin${path}`, { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  if (!answer.ok) throw new Error(`${method} ${path} was answered with ${answer.status}: ${await answer.text()}`);
}

/** Node 20 has no WebSocket of its own. */
export const openSocket: OpenSocket = (url, protocols) => new WebSocket(url, protocols) as never;

export function token(user: string, projects: Record<string, string>, ttl = 3600): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, projects, exp: Math.floor(Date.now() / 1000) + ttl };
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", SYNCLINE_TEST_SECRET).update(text).digest("base64url")}`;
}

export function client(user: string, project: string, options: Partial<ClientOptions> = {}): Promise<Client> {
  const getToken = () => token(user, { [project]: "editor" });
  return createClient({ url: EDGE, getToken, openSocket, hints: () => () => {}, ...options });
}
