/** One project, as an app works with it: read, watch, edit. */

import { Retry } from "./backoff.js";
import { type KnownConflict, purgeConflicts } from "./conflicts.js";
import type { Watched } from "./emitter.js";
import { AuthError, isForbidden } from "./errors.js";
import { held } from "./held.js";
import { clearDiscarded } from "./lane.js";
import { type Live, type QueryOptions, Views } from "./live.js";
import { type Entity, type Fields, type Incoming, type PendingOp, entityKey } from "./model.js";
import type { Edit, EditOptions, Outbox } from "./outbox.js";
import { fits } from "./overlay.js";
import type { Choose } from "./protocol/client.gen.js";
import type { ServerChangeFrame, ServerGoneFrame, ServerResyncFrame } from "./protocol/server.gen.js";
import { type Change, type Replica, store } from "./replica.js";
import type { Rooms } from "./rooms.js";
import { entityState, fromFrame, type Stream, type StreamState } from "./stream.js";
import { uuid } from "./uuid.js";
import type { Http } from "./http.js";

/** How a conflict is to end. */
export interface Resolution {
  /** Whose values stand, in all fields or in each. */
  choose?: Choose;
  /** Values of the user's own; they go before `choose`. */
  fields?: Fields;
}

/** An entity that is followed without its project. */
interface Followed {
  hold(): () => void;
  /** Brings it up to date. */
  fetch(): void;
  /** It could not be brought up to date, or not be stored. */
  later(error: unknown): void;
}

/** One project, from `client.project`. */
export class Project {
  readonly #views: Views;
  readonly #followed = new Map<string, Followed>();

  constructor(
    readonly name: string,
    /** @internal */ readonly replica: Replica,
    /** @internal */ readonly outbox: Outbox,
    /** @internal */ readonly stream: Stream,
    private readonly rooms: Rooms,
    /** @internal */ readonly http: Http,
  ) {
    this.#views = new Views(replica);
    replica.comes = (type, id) => stream.following || this.#followed.has(entityKey(type, id));
  }

  /** Whether what is here is true. */
  get state(): Watched<StreamState> {
    return this.stream.state;
  }

  /**
   * Follows the whole project: everything the role may read comes, and stays, on the device. The returned function
   * ends it, unless others follow it still.
   */
  readonly subscribe: () => () => void = held(
    () => this.stream.start(),
    () => {
      this.stream.stop();
      this.outbox.take([]);
    },
  );

  /** Follows one entity without the rest of the project. */
  follow(type: string, id: string): () => void {
    const room = `entity:${this.name}:${type}:${id}`;
    const name = entityKey(type, id);
    let followed = this.#followed.get(name);
    if (!followed) {
      // Joined again, it is fetched again: also by a session that begins meanwhile.
      const retry = new Retry(this.replica.clock, () => this.rooms.join(room));
      // Joined from now on: what is now is fetched beside it; if it is refused, that drops what is here.
      const fetch = () => void this.fetch(type, id).then(() => retry.worked(), later);
      const later = (error: unknown) => isForbidden(error) || error instanceof AuthError || retry.after(error);
      const told = (frame: ServerGoneFrame | ServerResyncFrame) => {
        if (frame.type === "resync") fetch();
        else if (frame.reason === "scope_changed") void this.stream.purge(frame);
        else this.replica.purge((row) => (row.type === type && row.id === id ? undefined : row), purgeConflicts).catch(fetch);
      };
      const hold = held(
        () => this.rooms.add({ room, ask: () => ({}), answered: fetch, told }),
        () => {
          this.#followed.delete(name);
          retry.stop();
          this.rooms.remove(room);
          this.outbox.take([]);
        },
      );
      this.#followed.set(name, (followed = { hold, fetch, later }));
    }
    return followed.hold();
  }

  /** One entity as it is on the device, with the user's pending edits. */
  get<F = Fields>(type: string, id: string): Promise<Entity<F> | undefined> {
    this.replica.use();
    return this.replica.get(type, id) as Promise<Entity<F> | undefined>;
  }

  /** Entities of a type, watched. */
  query<F = Fields>(type: string, options?: QueryOptions<F>): Live<Entity<F>[]> {
    return this.#views.query(type, options);
  }

  /** One entity, watched. */
  watch<F = Fields>(type: string, id: string): Live<Entity<F> | undefined> {
    return this.#views.entity(type, id);
  }

  /**
   * Makes an entity. Without an `id` it gets a UUID; `"local"` names it `local:…` until the hub gives it an id of
   * its own, for types whose ids the hub is to make.
   */
  insert(type: string, fields: Fields, options: EditOptions & { id?: string } = {}): Edit {
    const fresh = uuid(this.replica.clock);
    const id = options.id === "local" ? `local:${fresh}` : (options.id ?? fresh);
    return this.outbox.add({ kind: "create", type, id, fields }, options);
  }

  /** Sets some fields. */
  update(type: string, id: string, fields: Fields, options?: EditOptions): Edit {
    return this.outbox.add({ kind: "update", type, id, fields }, options);
  }

  /** Deletes an entity. */
  delete(type: string, id: string, options?: EditOptions): Edit {
    return this.outbox.add({ kind: "delete", type, id }, options);
  }

  /**
   * Makes several edits that take effect together or not at all: those that `make` makes before it returns. They are
   * stored in one commit, and share their `local`.
   */
  together<T extends readonly Edit[]>(make: () => T): T {
    return this.outbox.together(make);
  }

  /** This user's conflicts, the open ones first, to watch with `conflictsChanged`. */
  conflicts(): KnownConflict[] {
    const all = [...this.replica.conflicts.get().values()];
    return all.sort((a, b) => Number(b.state === "open") - Number(a.state === "open") || b.at - a.at);
  }

  /** Hears when a conflict opens, moves or ends. */
  conflictsChanged(listener: () => void): () => void {
    return this.replica.conflicts.subscribe(listener);
  }

  /** Ends an open conflict. If the entity has moved on meanwhile, the conflict stays open with the state of now. */
  resolve(conflict: string, { choose, fields }: Resolution): Edit {
    const known = this.replica.conflicts.get().get(conflict);
    if (!known) throw new RangeError(`there is no conflict ${conflict}`);
    return this.outbox.add({ kind: "resolve", type: known.type, id: known.entity, conflict, expectedVersion: known.serverVersion, choose, fields });
  }

  /** What waits for the hub, and what failed, oldest first. */
  pending(): readonly PendingOp[] {
    return this.replica.ops.filter((op) => op.state !== "settled");
  }

  /** Hears when the outbox changes. */
  pendingChanged(listener: () => void): () => void {
    return this.replica.events.on("ops", listener);
  }

  /** Puts a failed operation into the queue again, with those it was made together with. */
  retry(opId: string): Promise<Edit> {
    return this.outbox.retry(opId);
  }

  /**
   * Throws an operation away, with those it was made together with. The hub hears of it, if need be in a later session,
   * so that nobody tries again there what was rejected.
   */
  async discard(opId: string): Promise<void> {
    await this.outbox.discard(opId);
    if (this.outbox.via?.()) void clearDiscarded(this).catch(() => {});
  }

  /** The outbox as JSON, to be kept or sent to support before something is discarded. */
  exportPending(): string {
    return JSON.stringify(this.pending(), null, 2);
  }

  /** Asks the hub for one entity and keeps it, unless something newer came meanwhile. */
  async fetch(type: string, id: string): Promise<Entity | undefined> {
    const { replica } = this;
    const { purges } = replica;
    const before = await replica.transact((change) => change.row(type, id));
    let refused: unknown;
    const state = await entityState(this.http, this.name, type, id).catch((error: unknown) => {
      if (!isForbidden(error)) throw error;
      refused = error;
    });
    const current = await replica.transact(async (change) => {
      if (purges !== replica.purges) return false;
      const row = await change.row(type, id);
      // The answer stands, whatever the version: another role may see more of the same, another epoch counts anew.
      if (row && row.version === before?.version) change.dropRow(type, id);
      if (state) await this.#keep(change, state);
      return true;
    });
    if (!current) return this.fetch(type, id);
    if (refused) throw refused;
    return replica.get(type, id);
  }

  /** @internal A change of an entity that is followed alone. */
  takeAlone(frame: ServerChangeFrame): void {
    const incoming = fromFrame(frame);
    const followed = this.#followed.get(entityKey(incoming.type, incoming.id));
    if (!followed) return;
    const stored = this.replica.transact(async (change) => {
      const fitting = fits(await change.row(incoming.type, incoming.id), incoming);
      if (fitting) await this.#keep(change, incoming);
      return fitting;
    });
    stored.then((whole) => whole || followed.fetch(), followed.later);
  }

  async #keep(change: Change, incoming: Incoming): Promise<void> {
    await store(change, [incoming]);
    const row = await change.row(incoming.type, incoming.id);
    // What the project's cursor covers is the stream's; what came alone grows old.
    if (row && row.version > (change.cursor?.seq ?? 0)) change.putRow({ ...row, at: this.replica.clock.now(), alone: true });
  }
}
