/**
 * A project's changes, from the socket and over HTTP, into its copy: in order, without a hole.
 *
 * Frames queue up and are stored in batches, rows and cursor in one commit; only then are they acknowledged.
 * Whenever the order breaks (a gap, a `resync`, a failed store, too long a queue) the queue is dropped and the
 * state is fetched from the cursor on, which always heals.
 */

import { Retry } from "./backoff.js";
import type { Connection } from "./connection.js";
import { purgeConflicts } from "./conflicts.js";
import { Watched } from "./emitter.js";
import { AuthError, isForbidden, RequestError } from "./errors.js";
import type { Http } from "./http.js";
import type { Cursor, Incoming, Row } from "./model.js";
import type { ServerAdvanceFrame, ServerChangeFrame, ServerGoneFrame, ServerResyncFrame } from "./protocol/server.gen.js";
import { type Change, type Left, type Replica, store, whole } from "./replica.js";
import type { Joined, Rooms, Wanted } from "./rooms.js";

/**
 * `cold`: nothing is here yet. `behind`: what is here is old. `catching_up`: being brought up to date.
 * `live`: it is true. `denied`: the hub does not let this user in.
 */
export type StreamState = "cold" | "behind" | "catching_up" | "live" | "denied";

/** One page of `GET …/changes`. */
interface Page {
  changes: { entity: { type: string; id: string }; version: number; deleted?: boolean; fields: Record<string, unknown> }[];
  next: number;
  more: boolean;
  epoch: string;
  scope?: string;
  begun?: unknown;
  resync?: string;
}

/** What of the rows may not be read any more. */
type Part = Pick<ServerGoneFrame, "types" | "except" | "fields">;

/** Frames kept while the store is busy; more are dropped and fetched later. */
const QUEUE = 5000;
const ACK_MS = 100;
/** How long a page may take. */
const PAGE_MS = 30_000;

/** The stream of one project. */
export class Stream implements Wanted {
  readonly state: Watched<StreamState>;
  readonly room: string;
  /** Whether the project is followed. */
  following = false;
  #queue: (ServerChangeFrame | ServerAdvanceFrame)[] = [];
  #draining = false;
  #joined = false;
  #pulling: Promise<number> | undefined;
  /** When that ends, done or not. */
  #until = 0;
  #stale = false;
  readonly #retry: Retry;
  #ackDue = false;
  /** Whether a page came since the last acknowledgement: the cursor is of the hub's log as it is now. */
  #fetched = false;

  constructor(
    private readonly replica: Replica,
    private readonly connection: Connection,
    private readonly rooms: Rooms,
    private readonly http: Http,
  ) {
    this.#retry = new Retry(replica.clock, () => this.#heal(false));
    this.room = `project:${replica.project}`;
    this.state = new Watched<StreamState>(replica.cursor && !replica.cursor.sweeping ? "behind" : "cold");
  }

  /** Follows the project from now on. */
  start(): void {
    if (this.following) return;
    this.following = true;
    this.replica.use();
    this.rooms.add(this);
  }

  /** Stops following; the copy stays. */
  stop(): void {
    this.following = false;
    this.#retry.stop();
    this.lost();
    this.rooms.remove(this.room);
  }

  ask(): ReturnType<Wanted["ask"]> {
    const { cursor } = this.replica;
    // Who was refused asks over HTTP first: that waits for the purge.
    if (!cursor || cursor.sweeping || this.state.get() === "denied") {
      this.#heal(false);
      return undefined;
    }
    const { seq, epoch, scope } = cursor;
    return { since: seq, epoch, scope };
  }

  answered(answer: Joined): void {
    if (answer.error) {
      if (isForbidden(answer.error)) void this.purge();
      else this.state.set("denied");
      return;
    }
    this.#joined = true;
    this.#retry.worked();
    if (answer.resync) return this.#heal(true);
    const behind = (answer.seq ?? 0) > (this.replica.cursor?.seq ?? 0);
    this.state.set(behind ? "catching_up" : "live");
    // What was stored right before the last connection broke.
    this.ack();
    void this.#drain();
  }

  lost(): void {
    this.#joined = false;
    this.#queue = [];
    if (this.state.get() !== "cold" && this.state.get() !== "denied") this.state.set("behind");
  }

  /** Takes a `change` or an `advance` of the project. */
  take(frame: ServerChangeFrame | ServerAdvanceFrame): void {
    if (!this.following) return;
    if (this.#queue.length >= QUEUE) {
      this.#queue = [];
      this.#stale = true;
    } else this.#queue.push(frame);
    void this.#drain();
  }

  told(frame: ServerGoneFrame | ServerResyncFrame): void {
    if (frame.type === "resync") this.#heal(true);
    else void this.purge(frame.reason === "scope_changed" ? frame : undefined);
  }

  /** Brings the copy up to date over HTTP; returns how many entities came. */
  pull(anew = false, until = Infinity): Promise<number> {
    // A fresh copy is not a page more of the old one, and what ends too soon may leave something out.
    if (this.#pulling && (anew || this.#until < until)) return this.#pulling.catch(() => 0).then(() => this.pull(anew, until));
    if (this.#pulling) return this.#pulling;
    this.#until = until;
    this.#pulling = this.#read(anew, until)
      .catch(async (error: unknown) => {
        if (isForbidden(error)) await this.purge();
        throw error;
      })
      .finally(() => {
        this.#pulling = undefined;
        void this.#drain();
        this.ack();
      });
    return this.#pulling;
  }

  /** Access was lost, to everything or to a part: what came from it goes. Pending work stays. */
  async purge(part?: Part): Promise<void> {
    // What waits came before this, and is fetched as it may be read now.
    this.#stale ||= this.#queue.length > 0;
    this.#queue = [];
    if (!part) {
      this.#joined = false;
      this.state.set("denied");
    }
    const purged = this.replica.purge((row) => part && rest(row, part), part ? purgeConflicts : forget);
    void this.#drain();
    // If it cannot be stored, the hub is asked again what may be read.
    await purged.catch((error: unknown) => this.#later(error));
  }

  /** Fetches what is missing, until it works; then joins if that waited for it. */
  #heal(anew: boolean): void {
    if (this.state.get() !== "cold") this.state.set("catching_up");
    this.#retry.stop();
    this.#stale = false;
    this.pull(anew).then(
      () => {
        this.#retry.worked();
        if (!this.following) return;
        if (this.#joined) {
          this.state.set("live");
          void this.#drain();
        } else this.rooms.join(this.room);
      },
      (error: unknown) => isForbidden(error) || this.#later(error),
    );
  }

  #later(error: unknown): void {
    if (this.following && !(error instanceof AuthError)) this.#retry.after(error);
  }

  async #read(anew: boolean, until: number): Promise<number> {
    let count = 0;
    if (anew) await this.replica.transact(async (change) => change.putCursor(fresh(change.cursor)));
    for (;;) {
      const { purges } = this.replica;
      // In line with the transactions: what is purged already is not built on.
      const cursor = (await this.replica.transact(async (change) => change.cursor)) ?? fresh(undefined);
      const page = await this.http.get<Page>(this.#pagePath(cursor), Math.max(Math.min(until - this.replica.clock.now(), PAGE_MS), 1));
      if (await this.#takePage(cursor, page, purges)) {
        this.#fetched = true;
        count += page.changes.length;
        if (!page.more) return count;
      }
      if (this.replica.clock.now() >= until) return count;
    }
  }

  #pagePath({ seq, epoch, scope, begun }: Cursor): string {
    const query = [`since=${seq}`];
    if (seq > 0 && epoch) query.push(`epoch=${epoch}`);
    if (scope !== undefined) query.push(`scope=${encodeURIComponent(scope)}`);
    if (begun !== undefined) query.push(`begun=${begun}`);
    return `/v1/projects/${this.replica.project}/changes?${query.join("&")}`;
  }

  /** False if it is from before a purge. */
  #takePage(asked: Cursor, page: Page, purges: number): Promise<boolean> {
    return this.replica.transact(async (change) => {
      if (purges !== this.replica.purges) return false;
      const from = page.resync && asked.seq > 0 ? fresh(asked) : asked;
      const { gen, sweeping } = from;
      const { next: seq, epoch, scope, begun } = page;
      const cursor: Cursor = { seq, epoch, scope, begun, gen, sweeping, used: change.cursor?.used || this.replica.clock.now() };
      if (asked.epoch && asked.epoch !== epoch) {
        // The hub went back to a backup: what it had decided since, it may not know any more.
        for (const op of change.ops) if (op.state === "settled") change.putOp({ ...op, state: "queued" });
      }
      await store(change, page.changes.map(fromPage), cursor);
      if (!sweeping || page.more) return true;
      for (const row of await this.replica.rows()) {
        if (row.gen !== gen && (await change.row(row.type, row.id))?.gen !== gen) change.dropRow(row.type, row.id);
      }
      change.putCursor({ ...cursor, sweeping: undefined });
      change.reset = true;
      return true;
    });
  }

  async #drain(): Promise<void> {
    if (this.#draining || this.#pulling || !this.#joined) return;
    this.#draining = true;
    try {
      while (this.#queue.length > 0 || this.#stale) {
        const taken = !this.#stale && (await this.#takeFrames(this.#queue.splice(0)));
        // Meanwhile the connection was lost, or the access.
        if (!this.#joined) return;
        if (!taken) {
          this.#queue = [];
          this.#heal(false);
          return;
        }
        this.state.set("live");
        this.replica.use();
        this.ack();
      }
    } catch (error) {
      // The store failed: nothing moved, so nothing is lost.
      this.#queue = [];
      this.#stale = true;
      this.#later(error);
    } finally {
      this.#draining = false;
    }
  }

  /** Stores frames; false if something is missing before them, or they may not be read any more. */
  async #takeFrames(frames: (ServerChangeFrame | ServerAdvanceFrame)[]): Promise<boolean> {
    const { purges } = this.replica;
    let { seq } = this.replica.cursor ?? { seq: 0 };
    const changes: Incoming[] = [];
    for (const frame of frames) {
      if (frame.seq <= seq) continue;
      // `advance` may stand for many; a change for itself alone.
      if (frame.type === "change" && frame.seq !== seq + 1) return false;
      seq = frame.seq;
      if (frame.type === "change") changes.push(fromFrame(frame));
    }
    return this.replica.transact(async (change) => {
      if (purges !== this.replica.purges || !(await whole(change, changes))) return false;
      if (change.cursor) await store(change, changes, { ...change.cursor, seq: Math.max(seq, change.cursor.seq) });
      return true;
    });
  }

  /**
   * Tells the hub how far everything is stored, whichever way it came; not before the hub has said, by an answer or a
   * page, that its log is the one the cursor counts.
   */
  ack(): void {
    if (this.#ackDue) return;
    this.#ackDue = true;
    this.replica.clock.after(ACK_MS, () => {
      this.#ackDue = false;
      const seq = this.replica.cursor?.seq;
      if (!seq || this.#pulling || !(this.#joined || this.#fetched)) return;
      if (this.connection.send({ type: "ack", project: this.replica.project, seq })) this.#fetched = false;
    });
  }
}

/** One entity as the hub has it now; `undefined` if there is none to be seen. */
export async function entityState(http: Http, project: string, type: string, id: string): Promise<Incoming | undefined> {
  const path = `/v1/projects/${project}/entities/${type}/${encodeURIComponent(id)}`;
  try {
    return fromPage({ entity: { type, id }, ...(await http.get<Omit<Page["changes"][number], "entity">>(path)) });
  } catch (error) {
    if (error instanceof RequestError && error.code === "not_found") return undefined;
    throw error;
  }
}

const fresh = (cursor: Cursor | undefined): Cursor => ({
  seq: 0,
  epoch: cursor?.epoch ?? "",
  gen: (cursor?.gen ?? 0) + 1,
  sweeping: true,
  used: cursor?.used ?? 0,
});

const fromPage = ({ entity, version, deleted, fields }: Page["changes"][number]): Incoming => ({
  ...entity,
  version,
  kind: deleted ? "delete" : "state",
  fields,
});

/** A `change` as the copy takes it. */
export const fromFrame = ({ entity, version, prev, kind, fields = {} }: ServerChangeFrame): Incoming => ({
  ...entity,
  version,
  prev,
  kind,
  fields,
});

/** What may be read still of a row; the same row if that is all of it. */
function rest(row: Row, { types = [], except = [], fields = {} }: Part): Row | undefined {
  if (types.includes(row.type) || (types.includes("*") && !except.includes(row.type))) return undefined;
  const hidden = [...(fields[row.type] ?? []), ...(fields["*"] ?? [])];
  if (!hidden.some((name) => name in row.fields)) return row;
  return { ...row, fields: Object.fromEntries(Object.entries(row.fields).filter(([name]) => !hidden.includes(name))) };
}

/** The copy is no more; what was decided without it does not wait for it. */
function forget(change: Change, left: Left): void {
  purgeConflicts(change, left);
  change.putCursor(undefined);
  for (const op of change.ops) if (op.state === "settled") change.dropOp(op);
}
