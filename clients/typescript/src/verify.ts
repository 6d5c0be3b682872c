/**
 * Whether the copy on the device is what the hub has, by checksums in 64 buckets; what differs is read anew.
 *
 * Sums are over versions: an entity that is missing, one too many, or of another version is found. One whose fields
 * alone were changed on the device has the right sum; `everything` reads all buckets and finds that, too. Pending
 * operations, the cursor and what arrives meanwhile stay as they are.
 */

import { SynclineError } from "./errors.js";
import { type Cursor, entityKey, type Row } from "./model.js";
import type { Project } from "./project.js";
import type { Change } from "./replica.js";
import { sha256 } from "./sha256.js";

/** What to verify. */
export interface VerifyOptions {
  /** These types alone. */
  types?: string[];
  /** Reads all of it instead of comparing sums. */
  everything?: boolean;
}

/** What was found. */
export interface Verified {
  /** The position in the log at which copy and hub were compared. */
  head: number;
  /** Living entities in the copy. */
  entities: number;
  /** Buckets that differed, and were read anew. */
  buckets: number[];
  /** Entities that were wrong, and are right now. */
  mended: { type: string; id: string; was: "changed" | "missing" | "extra" }[];
}

/** Answer of `GET …/checksum`. */
interface Sums {
  head: number;
  epoch: string;
  scope?: string;
  buckets: { sum: string; count: number }[];
}

interface Page {
  changes: { entity: { type: string; id: string }; version: number; deleted?: boolean; fields: Row["fields"] }[];
  next: number;
  more: boolean;
  epoch: string;
  scope?: string;
  begun?: unknown;
}

const BUCKETS = 64;
/** Buckets in memory at once. */
const AT_ONCE = 8;
/** How often to follow a project that moves on while it is compared. */
const ATTEMPTS = 10;

/** The bucket of an entity. */
export const bucketOf = (type: string, id: string): number => parseInt(sha256(`${type}:${id}`).slice(0, 2), 16) >> 2;

/** What an entity adds to the sum of its bucket. */
export const adds = (type: string, id: string, version: number): bigint =>
  BigInt(`0x${sha256(`${type}:${id}:${version}`).slice(0, 16)}`);

/** Compares the copy with the hub and mends it. What is not there yet is fetched first, which may be all of it. */
export async function verify(project: Project, { types, everything = false }: VerifyOptions = {}): Promise<Verified> {
  const only = types === undefined ? "" : `types=${types.map(encodeURIComponent).join(",")}`;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const sums = await project.http.get<Sums>(`/v1/projects/${project.name}/checksum${only && `?${only}`}`);
    const found = await compare(project, sums, types);
    if (!found) {
      await project.stream.pull();
      continue;
    }
    const { copy, cursor } = found;
    const { purges } = project.replica;
    const buckets = everything ? [...Array(BUCKETS).keys()] : found.differ;
    const mended: Verified["mended"] = [];
    let whole = true;
    for (let at = 0; whole && at < buckets.length; at += AT_ONCE) {
      const some = buckets.slice(at, at + AT_ONCE);
      const state = await read(project, only, some, cursor);
      // What was read before a purge may not be kept.
      const done = state && purges === project.replica.purges && (await mend(project, state, copy, some, cursor));
      if (done) mended.push(...done);
      else whole = false;
    }
    const entities = [...copy.values()].filter(({ row }) => !row.deleted).length;
    if (whole) return { head: sums.head, entities, buckets, mended };
  }
  throw new SynclineError(`the project ${project.name} moves on faster than it can be compared: try again later`);
}

type Copy = Map<string, { row: Row; bucket: number }>;

/** The copy and the buckets that differ; nothing if it is of another moment than the sums. */
function compare(project: Project, { head, epoch, scope, buckets }: Sums, types?: string[]): Promise<{ copy: Copy; differ: number[]; cursor: Cursor } | undefined> {
  return project.replica.transact(async ({ cursor }) => {
    if (!cursor || cursor.seq !== head || cursor.epoch !== epoch || cursor.scope !== scope || cursor.sweeping) return undefined;
    const copy: Copy = new Map();
    const own = Array.from({ length: BUCKETS }, () => ({ sum: 0n, count: 0 }));
    for (const row of await project.replica.rows()) {
      if (types && !types.includes(row.type)) continue;
      const bucket = bucketOf(row.type, row.id);
      copy.set(entityKey(row.type, row.id), { row, bucket });
      if (row.deleted) continue;
      own[bucket]!.sum += adds(row.type, row.id, row.version);
      own[bucket]!.count++;
    }
    const right = ({ sum, count }: { sum: bigint; count: number }, at: number) =>
      count === buckets[at]?.count && BigInt.asUintN(64, sum) === BigInt(`0x${buckets[at].sum}`);
    return { copy, cursor, differ: [...own.keys()].filter((at) => !right(own[at]!, at)) };
  });
}

/** What the hub has in these buckets; nothing if it is another hub or role now. */
async function read(project: Project, only: string, buckets: number[], cursor: Cursor): Promise<Map<string, Row> | undefined> {
  const found = new Map<string, Row>();
  const at = project.replica.clock.now();
  let page: Page | undefined;
  do {
    const query = [`since=${page?.next ?? 0}`, `buckets=${buckets.join(",")}`, ...(only ? [only] : [])];
    if (page) query.push(`epoch=${cursor.epoch}`);
    if (cursor.scope !== undefined) query.push(`scope=${encodeURIComponent(cursor.scope)}`);
    if (page?.begun !== undefined) query.push(`begun=${encodeURIComponent(String(page.begun))}`);
    page = await project.http.get<Page>(`/v1/projects/${project.name}/changes?${query.join("&")}`);
    if (page.epoch !== cursor.epoch || page.scope !== cursor.scope) return undefined;
    for (const { entity, version, deleted, fields } of page.changes) {
      const row: Row = { ...entity, version, fields, at, gen: cursor.gen, ...(deleted ? { deleted } : {}) };
      found.set(entityKey(entity.type, entity.id), row);
    }
  } while (page.more);
  return found;
}

/** Puts right what is wrong in these buckets; nothing if the copy was begun anew meanwhile. */
function mend(project: Project, state: Map<string, Row>, copy: Copy, buckets: number[], cursor: Cursor): Promise<Verified["mended"] | undefined> {
  return project.replica.transact(async (change) => {
    const { epoch, gen, sweeping } = change.cursor ?? {};
    if (epoch !== cursor.epoch || gen !== cursor.gen || sweeping) return undefined;
    const mended: Verified["mended"] = [];
    // From the store itself: what memory remembers may be better than what is kept.
    const rows = new Map((await project.replica.rows()).map((row) => [entityKey(row.type, row.id), row]));
    const known = [...copy.values()].filter(({ bucket }) => buckets.includes(bucket)).map(({ row }) => row);
    const all = new Map([...known, ...state.values()].map(({ type, id }) => [entityKey(type, id), { type, id }]));
    for (const [name, { type, id }] of all) {
      const was = mendOne(change, { type, id, before: copy.get(name)?.row, now: rows.get(name), truth: state.get(name) });
      if (was) mended.push({ type, id, was });
    }
    return mended;
  });
}

interface Doubtful {
  type: string;
  id: string;
  /** When it was compared. */
  before: Row | undefined;
  now: Row | undefined;
  /** What the hub had in between. */
  truth: Row | undefined;
}

/** Puts one entity right. */
function mendOne(change: Change, { type, id, before, now, truth }: Doubtful): Verified["mended"][number]["was"] | undefined {
  const moved = now?.version !== before?.version || now?.deleted !== before?.deleted;
  // It came while the hub's state was read, and may be newer than that.
  if (moved && now && (!truth || now.version >= truth.version)) return undefined;
  const [here, there] = [now && !now.deleted, truth && !truth.deleted];
  if (!truth) {
    if (now) change.dropRow(type, id);
    return here ? "extra" : undefined;
  }
  if (!here && !there) return undefined;
  if (now && now.version === truth.version && here === there && same(now.fields, truth.fields)) return undefined;
  change.putRow(truth);
  // It changed after the comparison: the copy was not wrong, only not there yet.
  if (truth.version > change.replica.cursor!.seq) return undefined;
  return !here ? "missing" : there ? "changed" : "extra";
}

/** Whether two JSON values are equal, whatever the order of their members. */
function same(a: unknown, b: unknown): boolean {
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const names = Object.keys(a);
  if (Array.isArray(a) !== Array.isArray(b) || names.length !== Object.keys(b).length) return false;
  return names.every((name) => name in b && same((a as Record<string, unknown>)[name], (b as Record<string, unknown>)[name]));
}
