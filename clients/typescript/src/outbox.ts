/**
 * The user's edits on their way to the hub: queued durably, sent in batches, each until it has a verdict.
 *
 * An operation leaves the outbox by a verdict or by its user's hand, and in no other way. One that is refused
 * for good goes to the failed lane, where it blocks nobody.
 */

import { Retry } from "./backoff.js";
import { AuthError, DisconnectedError, DiscardedError, RejectedError, RequestError } from "./errors.js";
import { saveVerdictConflict } from "./conflicts.js";
import type { Discarded, Fields, OpState, PendingOp } from "./model.js";
import { joined, nextBatch, sendOrder, tooLarge, wireText } from "./order.js";
import { apply, overlay } from "./overlay.js";
import type { Choose, Lane, Notify } from "./protocol/client.gen.js";
import type { OpKind, Verdict } from "./protocol/server.gen.js";
import { type Change, type Replica, retire } from "./replica.js";
import { key } from "./storage/storage.js";
import { sha256 } from "./sha256.js";
import { uuid } from "./uuid.js";

/** How an edit is to be sent. */
export interface EditOptions {
  /** The urgent go first. */
  priority?: Lane;
  /** Whom to tell. */
  notify?: Notify;
}

/** An edit that was made. */
export interface Edit {
  opId: string;
  /** The entity; a `local:` one until the hub gave it another. */
  id: string;
  /** Resolves once it is stored on the device, and shows in views. */
  local: Promise<void>;
  /** Resolves with the hub's verdict; fails with a `RejectedError`. It may take days. */
  synced: Promise<Verdict>;
}

/** Sends operations; the text of `ops` must go over the wire as it is. */
export type SendOps = (ops: string, checksum: string, sentAt: number) => Promise<Verdict[]>;

/** What the hub takes at once. */
export interface SendLimits {
  ops: number;
  bytes: number;
  opBytes: number;
}

/** How to send now; `undefined` while there is no way. */
export type Way = () => { send: SendOps; limits: SendLimits } | undefined;

interface Asked {
  kind: OpKind;
  type: string;
  id: string;
  fields?: Fields | undefined;
  conflict?: string;
  choose?: Choose | undefined;
  expectedVersion?: number;
}

interface Waiter {
  resolve(verdict: Verdict): void;
  reject(error: Error): void;
}

/** The outbox of one project. */
export class Outbox {
  readonly #waiters = new Map<string, Waiter>();
  #lastOrder = 0;
  /** How many operations are to go alone, because a request with as many was refused: one of them is at fault. */
  #doubtful = 0;
  #flushing: Promise<void> | undefined;
  /** Whether something came while it was being sent. */
  #due = false;
  /** The group that is being made. */
  #gathered: { group: string; ops: PendingOp[]; local: Promise<void> } | undefined;
  /**
   * What waits for its time. Timed in memory alone: a clock that is set back, or a time that was stored, keeps nothing
   * waiting.
   */
  readonly #held = new Set<string>();
  readonly #retry: Retry;
  /** While it waits, the hub wants nothing over the usual way. */
  readonly #rest: Retry;
  /** The usual way, set by the client. */
  via: Way | undefined;

  constructor(private readonly replica: Replica) {
    const { clock } = replica;
    this.#retry = new Retry(clock, () => {
      this.#held.clear();
      this.kick();
    });
    this.#rest = new Retry(clock, () => this.kick());
    this.#lastOrder = replica.ops.reduce((last, op) => Math.max(last, op.order), 0);
  }

  /** What waits, oldest first. */
  get pending(): readonly PendingOp[] {
    return this.replica.ops.filter((op) => op.state === "queued");
  }

  /** What failed for good. */
  get failed(): readonly PendingOp[] {
    return this.replica.ops.filter((op) => op.state === "failed");
  }

  /** Queues an edit. */
  add(asked: Asked, options: EditOptions = {}): Edit {
    const gathered = this.#gathered;
    const opId = uuid(this.replica.clock);
    // What the app does to its objects afterwards changes nothing: it is sent as it was, each time.
    const op = copy<PendingOp>({
      ...asked,
      opId,
      order: ++this.#lastOrder,
      editedAt: this.replica.clock.now(),
      project: this.replica.project,
      base: 0,
      priority: options.priority ?? "normal",
      group: gathered?.group,
      notify: options.notify,
      state: "queued",
      attempts: 0,
    });
    gathered?.ops.push(op);
    const synced = this.#decision(opId);
    return { opId, id: asked.id, local: gathered?.local ?? this.#queue([op]), synced };
  }

  /** Queues the edits that are made in it as one group. */
  together<T>(make: () => T): T {
    if (this.#gathered) return make();
    let store!: (stored: Promise<void>) => void;
    const local = new Promise<void>((resolve) => (store = resolve));
    local.catch(() => {});
    const { ops } = (this.#gathered = { group: uuid(this.replica.clock), ops: [] as PendingOp[], local });
    try {
      const made = make();
      store(this.#queue(ops));
      return made;
    } catch (error) {
      store(Promise.reject(new DiscardedError()));
      for (const { opId } of ops) this.#tell(opId, new DiscardedError());
      throw error;
    } finally {
      this.#gathered = undefined;
    }
  }

  /**
   * Puts a failed operation, and those of its group, into the queue again, as new ones: the verdicts of the old ones
   * stay as they are.
   */
  async retry(opId: string): Promise<Edit> {
    const failed = this.failed.find((op) => op.opId === opId);
    if (!failed) throw new RangeError(`there is no failed operation ${opId}`);
    const unit = this.failed.filter((op) => joined(op, failed));
    let edit!: Edit;
    const again = unit.map((op): PendingOp => {
      const { verdict: _verdict, problem: _problem, was: _was, ...kept } = op;
      const opAgain = uuid(this.replica.clock);
      const synced = this.#decision(opAgain);
      if (op === failed) edit = { opId: opAgain, id: op.id, local: Promise.resolve(), synced };
      return { ...kept, opId: opAgain, replaces: op.opId, order: ++this.#lastOrder, state: "queued", attempts: 0 };
    });
    await this.#queue(again, unit);
    return edit;
  }

  /** Throws an operation and those of its group away, whatever their state. What was sent, the hub may have applied. */
  async discard(opId: string): Promise<void> {
    const unit = await this.replica.transact(async (change) => {
      const op = find(change, opId);
      const ops = change.ops.filter((other) => op && other.state === op.state && joined(op, other));
      for (const one of ops) {
        change.dropOp(one);
        const { opId, replaces } = one;
        change.puts.push({ table: "ops", key: key(one.project, opId), value: { discarded: replaces ? [opId, replaces] : [opId] } satisfies Discarded });
      }
      return ops;
    });
    for (const op of unit) this.#tell(op.opId, new DiscardedError());
  }

  /** Sends what is ready, now if nothing is on its way. */
  kick(): void {
    this.#due = true;
    void this.flush().catch(() => {});
  }

  /**
   * Sends until nothing is ready, or there is no way, or the time is over. On one way at a time: another than the
   * usual waits for what is being sent, and leaves the rest to the usual.
   */
  async flush(until = Infinity, way?: Way): Promise<void> {
    while (way && this.#flushing) await this.#flushing.catch(() => {});
    this.#flushing ??= this.#run(until, way).finally(() => {
      this.#flushing = undefined;
      if (way || this.#due) this.kick();
    });
    return this.#flushing;
  }

  /**
   * Takes verdicts that nobody waits for: they come late, or a rejected operation was tried again from elsewhere. Even
   * without any, what waits for changes that nobody follows any more is let go of.
   */
  take(verdicts: readonly Verdict[]): void {
    void this.#settle(verdicts).catch(() => {});
  }

  /** Sends what was decided once more, to hear its verdict of now: the hub decides nothing twice. */
  async recall(decided: readonly PendingOp[]): Promise<void> {
    const left = decided.map((op) => [op]);
    while (left.length > 0) {
      const via = this.#usual();
      if (!via) return;
      const batch = nextBatch(left, () => false, via.limits, this.#resolve);
      await this.#deliver(batch, via.send);
      left.splice(0, batch.length);
    }
  }

  /** The client stops: nothing is sent any more. */
  stop(): void {
    this.#retry.stop();
    this.#rest.stop();
    this.via = undefined;
  }

  /** Puts operations into the queue in one commit, so that none is sent before all are stored. */
  #queue(ops: readonly PendingOp[], instead: readonly PendingOp[] = []): Promise<void> {
    const local = this.replica.transact(async (change) => {
      for (const op of instead) {
        if (!change.ops.includes(op)) throw new RangeError(`there is no failed operation ${op.opId}`);
        change.dropOp(op);
      }
      for (const op of ops) {
        await this.#rebase(change, op);
        change.putOp(op);
      }
    });
    local.then(
      () => this.kick(),
      (error: Error) => ops.forEach(({ opId }) => this.#tell(opId, error)),
    );
    return local;
  }

  readonly #resolve = (op: PendingOp): string => this.replica.resolve(op.type, op.id);

  /** What the edit started from, in the light of what is queued before it. */
  async #rebase(change: Change, op: PendingOp): Promise<void> {
    if (op.kind === "create" || op.kind === "resolve") return;
    const id = this.#resolve(op);
    const row = await change.row(op.type, id);
    op.base = row?.version ?? 0;
    const before = change.ops.filter((one) => one.kind !== "resolve" && one.type === op.type && this.#resolve(one) === id);
    const seen = overlay(row, id, before)?.fields;
    if (!op.fields || !seen) return;
    const was = Object.keys(op.fields).filter((name) => name in seen);
    if (was.length > 0) op.was = Object.fromEntries(was.map((name) => [name, seen[name]]));
  }

  #usual(): ReturnType<Way> {
    return this.#rest.waits ? undefined : this.via?.();
  }

  async #run(until: number, way: Way | undefined): Promise<void> {
    this.#due = false;
    const waits = ({ opId }: PendingOp) => this.#held.has(opId);
    for (;;) {
      const via = way ? way() : this.#usual();
      if (!via || this.replica.clock.now() >= until) return;
      const sorted = sendOrder(this.replica.ops, this.#resolve);
      const { limits, send } = via;
      const batch = nextBatch(sorted, waits, this.#doubtful > 0 ? { ...limits, ops: 1 } : limits, this.#resolve);
      const large = tooLarge(batch, limits);
      if (large) {
        const message = `larger than ${limits.opBytes} bytes, or together than ${limits.bytes}`;
        await this.#fail(batch.filter((op) => joined(op, large)), new RequestError("limit_exceeded", message));
      } else if (batch.length === 0 || !(await this.#sendBatch(batch, send, way))) return;
    }
  }

  /** Whether to go on at once. */
  async #sendBatch(batch: PendingOp[], send: SendOps, way: Way | undefined): Promise<boolean> {
    try {
      await this.#deliver(batch, send);
      this.#retry.worked();
      this.#rest.worked();
      this.#doubtful -= batch.length;
      return true;
    } catch (error) {
      if (error instanceof AuthError || error instanceof DisconnectedError) return false;
      if (error instanceof RequestError && !error.retryable) {
        if (batch.every((op) => joined(op, batch[0]!))) {
          this.#doubtful -= batch.length;
          await this.#fail(batch, error);
        } else this.#doubtful = batch.length;
        return true;
      }
      const busy = error instanceof RequestError && error.busy;
      if (!busy) this.#hold(batch, error);
      else if (!way) this.#rest.after(error);
      // Where nothing can be written, nothing is.
      await this.#note(batch, error, "queued").catch(() => {});
      return !busy;
    }
  }

  async #deliver(batch: readonly PendingOp[], send: SendOps): Promise<void> {
    const ops = `[${batch.map(wireText).join(",")}]`;
    await this.#settle(await send(ops, sha256(ops), this.replica.clock.now()));
  }

  /** Leaves these alone for a while. */
  #hold(ops: readonly PendingOp[], error: unknown): void {
    for (const { opId } of ops) this.#held.add(opId);
    this.#retry.after(error);
  }

  /** Tells why an attempt was in vain, of what waits still. */
  #note(ops: readonly PendingOp[], error: unknown, state: OpState): Promise<void> {
    const problem = {
      code: error instanceof RequestError ? error.code : "storage",
      message: error instanceof Error ? error.message : String(error),
    };
    return this.replica.transact(async (change) => {
      for (const { opId } of ops) {
        const op = find(change, opId);
        if (op?.state === "queued") change.putOp({ ...op, state, attempts: op.attempts + 1, problem });
      }
    });
  }

  async #fail(ops: readonly PendingOp[], error: RequestError): Promise<void> {
    try {
      await this.#note(ops, error, "failed");
    } catch (failure) {
      // It could not be stored: it is found out again.
      return this.#hold(ops, failure);
    }
    const { code, message } = error;
    for (const { opId } of ops) {
      this.#tell(opId, new RejectedError({ op_id: opId, code, message }));
    }
  }

  /** Takes the hub's verdicts, all in one commit. */
  async #settle(verdicts: readonly Verdict[]): Promise<void> {
    await this.replica.transact(async (change) => {
      for (const verdict of verdicts) {
        const op = find(change, verdict.op_id);
        if (op && op.state !== "settled") await this.#decide(change, op, verdict);
      }
      await retire(change);
    });
    for (const verdict of verdicts) {
      this.#tell(verdict.op_id, verdict.outcome === "rejected" ? new RejectedError(verdict) : verdict);
    }
  }

  async #decide(change: Change, op: PendingOp, verdict: Verdict): Promise<void> {
    if (verdict.local_id !== undefined && verdict.local_id !== verdict.id) {
      this.replica.map(change, op.type, verdict.local_id, verdict.id);
    }
    if (verdict.outcome === "rejected") {
      const problem = { code: verdict.code ?? "rejected", message: verdict.message ?? "" };
      change.putOp({ ...op, state: "failed", verdict, problem });
      return;
    }
    await this.#refresh(change, op.type, verdict);
    await saveVerdictConflict(change, op, verdict);
    if (verdict.outcome === "superseded" || verdict.outcome === "conflict") change.dropOp(op);
    else change.putOp({ ...op, state: "settled", verdict });
  }

  /** The entity as the verdict has it, if that is newer than the row. */
  async #refresh(change: Change, type: string, { id, current }: Verdict): Promise<void> {
    if (!current) return;
    const row = await change.row(type, id);
    const kind = current.deleted ? "delete" : "state";
    const gen = row?.gen ?? change.cursor?.gen ?? 0;
    const next = apply(row, { type, id, version: current.version, kind, fields: current.fields }, this.replica.clock.now(), gen);
    if (next !== row) change.putRow(next);
  }

  #decision(opId: string): Promise<Verdict> {
    const synced = new Promise<Verdict>((resolve, reject) => this.#waiters.set(opId, { resolve, reject }));
    // Who does not look at it is not to be alarmed.
    synced.catch(() => {});
    return synced;
  }

  #tell(opId: string, decision: Verdict | Error): void {
    const waiter = this.#waiters.get(opId);
    this.#waiters.delete(opId);
    if (decision instanceof Error) waiter?.reject(decision);
    else waiter?.resolve(decision);
  }
}

const copy = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;

function find(change: Change, opId: string): PendingOp | undefined {
  return change.ops.find((op) => op.opId === opId);
}
