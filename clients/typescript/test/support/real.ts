/** Clients of the real hub that `scripts/with-hub` runs. */

import { createHmac } from "node:crypto";
import { WebSocket } from "ws";
import { type Client, type ClientOptions, createClient } from "../../src/client.js";
import type { OpenSocket } from "../../src/platform.js";
import type { Project } from "../../src/project.js";
import { eventually } from "./clock.js";

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
  return createClient({ url: EDGE, getToken, user, openSocket, hints: () => () => {}, ...options });
}

/** Clients to be closed in the end: `after(closeAll)`. */
export const opened: Client[] = [];
export const closeAll = (): Promise<unknown> => Promise.all(opened.map((one) => one.close()));

/** A client that follows a project and is live. */
export async function enter(user: string, name: string, options: Partial<ClientOptions> = {}): Promise<{ client: Client; project: Project }> {
  const one = await client(user, name, options);
  opened.push(one);
  const project = await one.project(name);
  project.subscribe();
  await one.connect();
  await eventually(`${user} is live`, () => project.state.get() === "live");
  return { client: one, project };
}

const rows = async (project: Project) =>
  JSON.stringify((await project.replica.rows()).map(({ type, id, version, fields, deleted }) => [type, id, version, deleted ?? false, fields]));

/** Waits until everything is sent and all copies are the same. */
export async function converge(projects: Project[]): Promise<void> {
  // Decided is not enough: each one's own changes have to be in its copy, or equal copies mean nothing.
  await eventually("nothing is under way", () => projects.every(({ replica }) => replica.ops.length === 0));
  await eventually("all copies are the same", async () => new Set(await Promise.all(projects.map(rows))).size === 1);
}
