/**
 * The copy of one project on the device, and the edits that wait on top of it.
 *
 * Everything that changes it is a transaction: read, decide, commit to the store, then memory, then tell. One
 * runs at a time. Rows and the cursor that covers them are always in the same commit.
 */

import type { KnownConflict } from "./conflicts.js";
import { Emitter, Watched } from "./emitter.js";
import type { Clock } from "./platform.js";
import { type Cursor, type Discarded, type Entity, entityKey, type Incoming, type PendingOp, type Row } from "./model.js";
import { apply, fits, fold, inRow, overlay } from "./overlay.js";
import { below, key, type Put } from "./storage/storage.js";
import type { Store } from "./store.js";

interface Events {
  /** Entities as they are now, by their keys; `undefined` is gone. Without any: many at once, or unreadable; read anew. */
  changed: Map<string, Entity | undefined> | undefined;
  /** The outbox is another. */
  ops: undefined;
}

const DAY = 86_400_000;
/** What is left of a row that goes, or in part: the same row if that is all of it. */
export type Left = (row: Row) => Row | undefined;

/** One transaction on a replica. */
export class Change {
  readonly puts: Put[] = [];
  readonly touched = new Map<string, { type: string; id: string }>();
  readonly after: (() => void)[] = [];
  ops: PendingOp[];
  cursor: Cursor | undefined;
  /** Whether so much changed that views read anew. */
  reset = false;
  readonly #rows = new Map<string, Row | undefined>();

  constructor(
    readonly replica: Replica,
    private readonly store: Store,
  ) {
    this.ops = replica.ops;
    this.cursor = replica.cursor;
  }

  async row(type: string, id: string): Promise<Row | undefined> {
    const name = key(this.replica.project, type, id);
    return this.#rows.has(name) ? this.#rows.get(name) : this.store.row(this.replica.project, type, id);
  }

  putRow(row: Row): void {
    this.#setRow(row.type, row.id, row);
  }

  dropRow(type: string, id: string): void {
    this.#setRow(type, id);
  }

  putOp(op: PendingOp): void {
    this.#setOp(op, op);
  }

  dropOp(op: PendingOp): void {
    this.#setOp(op);
  }

  /** Without a cursor the copy is no more. */
  putCursor(value: Cursor | undefined): void {
    this.cursor = value;
    this.puts.push({ table: "cursors", key: this.replica.project, value });
  }

  touch(type: string, id: string): void {
    const real = this.replica.resolve(type, id);
    this.touched.set(entityKey(type, real), { type, id: real });
    if (real !== id) this.touched.set(entityKey(type, id), { type, id });
  }

  #setOp(op: PendingOp, value?: PendingOp): void {
    const others = this.ops.filter(({ opId }) => opId !== op.opId);
    this.ops = value ? [...others, value].sort((a, b) => a.order - b.order) : others;
    this.puts.push({ table: "ops", key: key(this.replica.project, String(op.order).padStart(12, "0")), value });
    this.touch(op.type, op.id);
  }

  #setRow(type: string, id: string, value?: Row): void {
    const name = key(this.replica.project, type, id);
    this.#rows.set(name, value);
    this.puts.push({ table: "rows", key: name, value });
    this.touch(type, id);
  }
}

/** One project's copy. */
export class Replica {
  readonly events = new Emitter<Events>();
  cursor: Cursor | undefined;
  ops: PendingOp[] = [];
  /**
   * How often rows were purged, counted when it is heard of, or had verdicts folded in. What the hub was asked before
   * may hold what is to go, or lack what was decided: whoever waits for an answer compares this when it is there, and
   * asks again.
   */
  purges = 0;
  /** Whether changes of an entity come by themselves, because somebody follows it; set by the project. */
  comes: (type: string, id: string) => boolean = () => false;
  /** The conflicts known, by id. */
  readonly conflicts = new Watched<ReadonlyMap<string, KnownConflict>>(new Map());
  #byEntity = new Map<string, PendingOp[]>();
  readonly #ids = new Map<string, string>();
  #tail: Promise<unknown> = Promise.resolve();

  constructor(
    readonly project: string,
    readonly store: Store,
    readonly clock: Clock,
  ) {
    store.events.on("emptied", () => void this.load());
  }

  /** Reads what the device has of it. */
  load(): Promise<void> {
    const { project, store } = this;
    const ids = this.#ids;
    return this.transact(async (change) => {
      change.cursor = await store.get<Cursor>("cursors", project);
      ids.clear();
      for (const [name, id] of await store.list<string>("ids", project)) ids.set(name.slice(below(project).length), id);
      const conflicts = await store.list<KnownConflict>("conflicts", project);
      this.conflicts.set(new Map(conflicts.map(([, conflict]) => [conflict.id, conflict])));
      const ops = await store.list<PendingOp | Discarded>("ops", project);
      change.ops = ops.map(([, op]) => op).filter((op) => "opId" in op);
      change.reset = true;
    });
  }

  /** Runs a transaction after those before it. Nobody is alarmed who does not wait for it: `status` tells if the store fails. */
  transact<T>(work: (change: Change) => Promise<T>): Promise<T> {
    const run = async () => {
      const change = new Change(this, this.store);
      const result = await work(change);
      await this.store.commit(change.puts);
      if (change.ops !== this.ops) {
        this.ops = change.ops;
        this.#index();
        change.after.unshift(() => this.events.emit("ops", undefined));
      }
      this.cursor = change.cursor;
      // It is stored, and counts: what cannot be read now, views read again.
      const views = change.reset ? undefined : await this.#views(change.touched.values()).catch(() => undefined);
      if (views?.size !== 0) this.events.emit("changed", views);
      for (const then of change.after) then();
      return result;
    };
    const result = this.#tail.then(run, run);
    this.#tail = result.catch(() => {});
    return result;
  }

  /** Somebody looks at it, or follows it: noted once a day, for the clean-up. */
  use(): void {
    const used = this.clock.now();
    if (!this.cursor || used - this.cursor.used < DAY) return;
    void this.transact(async (change) => change.cursor && change.putCursor({ ...change.cursor, used }));
  }

  /** Lets go of rows, or of parts of them: `left` says what is left of each. Returns how many went. */
  purge(left: Left, also?: (change: Change, left: Left) => void): Promise<number> {
    this.purges++;
    return this.transact(async (change) => {
      let gone = 0;
      for (const row of await this.rows()) {
        const rest = left(row);
        if (!rest) {
          change.dropRow(row.type, row.id);
          gone++;
        } else if (rest !== row) change.putRow(rest);
      }
      also?.(change, left);
      change.reset = true;
      return gone;
    });
  }

  /** The id by which the hub knows an entity; the local one while it has none. */
  resolve(type: string, id: string): string {
    return this.#ids.get(entityKey(type, id)) ?? id;
  }

  /** Learns the hub's id of what was named locally. */
  map(change: Change, type: string, local: string, id: string): void {
    change.puts.push({ table: "ids", key: key(this.project, type, local), value: id });
    this.#ids.set(entityKey(type, local), id);
    // Operations are found under the new name from now on.
    change.ops = [...change.ops];
    change.touch(type, local);
  }

  /** The pending operations of an entity, in order. */
  opsOf(type: string, id: string): readonly PendingOp[] {
    return this.#byEntity.get(entityKey(type, this.resolve(type, id))) ?? [];
  }

  /** One entity as the user should see it. */
  async get(type: string, id: string): Promise<Entity | undefined> {
    const real = this.resolve(type, id);
    const row = await this.store.row(this.project, type, real);
    return overlay(row, real, this.opsOf(type, real));
  }

  /** All entities of a type. */
  async list(type: string): Promise<Entity[]> {
    const found = new Map<string, Entity>();
    for (const [, row] of await this.store.list<Row>("rows", this.project, type)) {
      const entity = overlay(row, row.id, this.opsOf(type, row.id));
      if (entity) found.set(entity.id, entity);
    }
    for (const op of this.ops) {
      const id = this.resolve(type, op.id);
      if (op.type !== type || found.has(id)) continue;
      const entity = await this.get(type, id);
      if (entity) found.set(id, entity);
    }
    return [...found.values()];
  }

  /** The rows of the copy as the hub has them, without pending edits. */
  async rows(): Promise<Row[]> {
    return (await this.store.list<Row>("rows", this.project)).map(([, row]) => row);
  }

  async #views(keys: Iterable<{ type: string; id: string }>): Promise<Map<string, Entity | undefined>> {
    const views = new Map<string, Entity | undefined>();
    for (const { type, id } of keys) views.set(entityKey(type, id), await this.get(type, id));
    return views;
  }

  #index(): void {
    this.#byEntity = new Map();
    for (const op of this.ops) {
      if (op.kind === "resolve") continue;
      const name = entityKey(op.type, this.resolve(op.type, op.id));
      const ops = this.#byEntity.get(name);
      if (ops) ops.push(op);
      else this.#byEntity.set(name, [op]);
    }
  }
}

/** Whether all these changes can be applied: no version before one of them is missing. */
export async function whole(change: Change, changes: readonly Incoming[]): Promise<boolean> {
  const rows = new Map<string, Row>();
  for (const incoming of changes) {
    const name = entityKey(incoming.type, incoming.id);
    const row = rows.get(name) ?? (await change.row(incoming.type, incoming.id));
    if (!fits(row, incoming)) return false;
    rows.set(name, apply(row, incoming, 0, 0));
  }
  return true;
}

/** Puts changes into the copy, with the cursor that covers them if there is one. */
export async function store(change: Change, changes: readonly Incoming[], cursor?: Cursor): Promise<void> {
  const at = change.replica.clock.now();
  const gen = (cursor ?? change.cursor)?.gen ?? 0;
  for (const incoming of changes) {
    const known = await change.row(incoming.type, incoming.id);
    // A fresh copy does not compare itself with the old one: versions of another epoch mean nothing.
    const row = cursor?.sweeping && known?.gen !== gen ? undefined : known;
    const next = apply(row, incoming, at, gen);
    if (next !== row) change.putRow(next);
    // From now on its project's cursor covers it.
    else if (cursor && row.alone) change.putRow({ ...row, alone: undefined });
  }
  if (cursor) change.putCursor(cursor);
  await retire(change);
}

/** Lets go of operations whose outcome the rows show now. Where no change will bring it, they get it from the verdict. */
export async function retire(change: Change): Promise<void> {
  const { replica, cursor } = change;
  for (const op of change.ops) {
    if (op.state !== "settled" || !op.verdict) continue;
    const id = replica.resolve(op.type, op.id);
    const row = await change.row(op.type, id);
    if ((cursor?.seq ?? 0) < (op.verdict.seq ?? op.verdict.version ?? 0) && !inRow(row, op)) {
      if (replica.comes(op.type, id)) continue;
      replica.purges++;
      const folded = fold(row, op, id, replica.clock.now(), cursor?.gen ?? 0);
      if (folded) change.putRow(folded);
    }
    change.dropOp(op);
  }
}
