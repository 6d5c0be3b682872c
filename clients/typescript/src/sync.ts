/** Sync without a socket, for the background; the log of how it went; and the clean-up. */

import { isNeeded, openCache } from "./cache.js";
import type { Client } from "./client.js";
import { dropConflict, type KnownConflict } from "./conflicts.js";
import { AuthError, isForbidden, SynclineError } from "./errors.js";
import { clearDiscarded } from "./lane.js";
import type { SendOps } from "./outbox.js";
import type { Project } from "./project.js";
import type { Verdict } from "./protocol/server.gen.js";
import type { Cursor, Row } from "./model.js";

/** How a sync went. */
export interface SyncResult {
  at: number;
  durationMs: number;
  /** Operations that got a verdict. */
  pushed: number;
  /** Entities that came. */
  pulled: number;
  /** Operations that still wait. */
  left: number;
  /** Whether all was done. */
  complete: boolean;
  /** Why not, if it was not for operations that wait for their time. */
  error?: string;
}

/** How long a sync may take. */
export interface SyncOptions {
  /** After this many milliseconds it ends, with what was done; the rest is left for the next. */
  deadlineMs?: number;
}

const DAY = 86_400_000;
/** Results kept. */
const LOG = 200;

const running = new WeakMap<Client, Promise<SyncResult>>();

/**
 * Sends and fetches over HTTP what can be done before the deadline. Whoever asks while that is under way gets the
 * same result.
 */
export function syncNow(client: Client, { deadlineMs = 25_000 }: SyncOptions = {}): Promise<SyncResult> {
  let sync = running.get(client);
  if (!sync) running.set(client, (sync = run(client, deadlineMs).finally(() => running.delete(client))));
  return sync;
}

async function run(client: Client, deadlineMs: number): Promise<SyncResult> {
  const { clock, store } = client.parts;
  const at = clock.now();
  const going: Going = { until: at + deadlineMs, projects: [], pushed: 0, pulled: 0, error: undefined };
  let stop = () => {};
  const late = new Promise<boolean>((resolve) => (stop = clock.after(deadlineMs, () => resolve(false))));
  // Whatever does not answer, the system that woke the app waits no longer.
  const whole = await Promise.race([syncAll(client, going), late]);
  stop();
  const { projects, pushed, pulled, error = whole ? undefined : "the time was over before all was done" } = going;
  const left = projects.reduce((sum, { outbox }) => sum + outbox.pending.length, 0);
  const complete = error === undefined && left === 0;
  const result: SyncResult = { at, durationMs: clock.now() - at, pushed, pulled, left, complete };
  if (error !== undefined) result.error = error;
  // What cannot be logged was done all the same; a store that fails says so in `status`.
  await store.commit([{ table: "log", key: String(at).padStart(15, "0"), value: result }]).catch(() => {});
  client.parts.synced(result);
  return result;
}

/** A sync under way. */
interface Going {
  readonly until: number;
  readonly projects: Project[];
  pushed: number;
  pulled: number;
  error: string | undefined;
}

/** Does all there is; false if the time was over before. */
async function syncAll(client: Client, going: Going): Promise<boolean> {
  const { clock, store } = client.parts;
  const names = new Set((await store.list<Cursor>("cursors")).map(([name]) => name));
  for (const name of await store.waiting()) names.add(name);
  for (const name of names) going.projects.push(await client.project(name));
  for (const project of going.projects) {
    if (clock.now() >= going.until) return false;
    try {
      await push(client, project, going);
      // Of a project that nobody ever followed as a whole, nobody asked for the whole.
      const { replica, stream } = project;
      if ((replica.cursor || stream.following) && clock.now() < going.until) going.pulled += await stream.pull(false, going.until);
      // Last: a hub that refuses it keeps nothing else from being done.
      if (clock.now() < going.until) await clearDiscarded(project);
    } catch (error) {
      // What the end of the time broke off is no failure.
      if (clock.now() >= going.until) return false;
      // Access was lost, and the copy went with it: all is done that can be.
      if (isForbidden(error)) continue;
      going.error = error instanceof Error ? error.message : String(error);
      if (error instanceof AuthError || !(error instanceof SynclineError)) break;
    }
  }
  return clock.now() < going.until;
}

/** Empties a project's outbox over HTTP; fails with what kept it from that. */
async function push(client: Client, project: Project, going: Going): Promise<void> {
  const { name, outbox } = project;
  const { clock, http, limits } = client.parts;
  let failure: unknown;
  const send: SendOps = async (ops, checksum, sentAt) => {
    const head = `"client":${JSON.stringify(client.clientId)},"sent_at":${sentAt},"checksum":"${checksum}"`;
    const left = Math.max(going.until - clock.now(), 1);
    try {
      const path = `/v1/projects/${name}/ops`;
      const { verdicts } = await http.post<{ verdicts: Verdict[] }>(path, `{${head},"ops":${ops}}`, left);
      going.pushed += verdicts.length;
      return verdicts;
    } catch (error) {
      failure = error;
      throw error;
    }
  };
  await outbox.flush(going.until, () => ({ send, limits: limits("body_bytes") }));
  if (failure !== undefined && outbox.pending.length > 0) throw failure;
}

/** The results kept, newest first. */
export async function syncLog(client: Client): Promise<SyncResult[]> {
  return (await client.parts.store.list<SyncResult>("log")).map(([, result]) => result).reverse();
}

/** What a clean-up removed. */
export interface CleanUp {
  rows: number;
  projects: number;
  records: number;
}

/**
 * Removes what was not used for `days`: copies of projects that nobody followed or looked at, ended conflicts, old results, and
 * what the cache policies give up. Operations that wait, the rows they stand on, and what is followed stay.
 */
export async function cleanUp(client: Client, days = 30): Promise<CleanUp> {
  const { clock, store } = client.parts;
  const before = clock.now() - days * DAY;
  const done: CleanUp = { rows: 0, projects: 0, records: 0 };
  const cache = await openCache(client);
  const cursors = new Map(await store.list<Cursor>("cursors"));
  // What was read by itself has no cursor.
  const names = new Set(cursors.keys());
  for (const [name] of await store.list("rows")) names.add(name.split("\u001f")[0]!);
  for (const name of names) {
    const project = await client.project(name);
    done.rows += await cache.evict(project);
    const used = cursors.get(name)?.used;
    if (used === undefined || used >= before || project.stream.following) continue;
    const { replica } = project;
    // Of no copy: the next one drops what it does not name, and believes none of the rest.
    const needed = (row: Row) => (isNeeded(replica, row) ? { ...row, gen: 0 } : undefined);
    done.rows += await replica.purge(needed, (change) => change.putCursor(undefined));
    done.projects++;
  }
  const log = await store.list<SyncResult>("log");
  const old = log.filter(([, result], at) => result.at < before || at < log.length - LOG).map(([key]) => ({ table: "log" as const, key }));
  await store.commit(old);
  done.records = old.length;
  const known = await store.list<KnownConflict>("conflicts");
  for (const name of new Set(known.map(([, { project }]) => project))) {
    const { replica } = await client.project(name);
    done.records += await replica.transact(async (change) => {
      const ended = [...replica.conflicts.get().values()].filter(({ state, at }) => state !== "open" && at < before);
      for (const conflict of ended) dropConflict(change, conflict);
      return ended.length;
    });
  }
  return done;
}
