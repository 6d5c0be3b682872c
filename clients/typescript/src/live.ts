/** Views that stay true: an entity, or the entities of a type, in the shape of `useSyncExternalStore`. */

import { Watched } from "./emitter.js";
import { held } from "./held.js";
import { type Entity, entityKey, type Fields } from "./model.js";
import type { Replica } from "./replica.js";

/** What a view shows. */
export interface Snapshot<T> {
  /** What is there now. */
  data: T;
  /** Whether the device's store is still being read. */
  loading: boolean;
}

/** A view: `get` returns the same object until it changes. Reading it costs nothing. */
export interface Live<T> {
  /** What it shows now. */
  get(): Snapshot<T>;
  /** Hears of changes; the returned function stops. */
  subscribe(listener: () => void): () => void;
  /** Resolves once the device's store was read. */
  ready(): Promise<T>;
}

/** What of a type a query shows. */
export interface QueryOptions<F = Fields> {
  /** Which entities; all by default. */
  where?: (entity: Entity<F>) => boolean;
  /** In which order; by id by default. */
  sort?: (a: Entity<F>, b: Entity<F>) => number;
  /** How many at most. */
  limit?: number;
}

/** What a query shows of a type's entities. */
export function pick<F>(entities: Iterable<Entity<F>>, { where, sort, limit }: QueryOptions<F>): Entity<F>[] {
  let data = [...entities];
  if (where) data = data.filter(where);
  data.sort(sort ?? ((a, b) => (a.id < b.id ? -1 : 1)));
  return data.slice(0, limit);
}

/** The entities of one type, kept in memory while somebody looks at them. */
class Collection {
  readonly entities = new Map<string, Entity>();
  readonly version = new Watched(0);
  loading = true;
  loaded: Promise<void>;

  constructor(
    private readonly replica: Replica,
    private readonly type: string,
  ) {
    this.loaded = this.load();
    replica.events.on("changed", (changed) => this.take(changed));
    replica.events.on("reset", () => void (this.loaded = this.load()));
  }

  private load(): Promise<void> {
    this.replica.use();
    // In line with the transactions, so that no change falls between reading and hearing.
    return this.replica.transact(async () => {
      const all = await this.replica.list(this.type);
      this.entities.clear();
      for (const entity of all) this.entities.set(entity.id, entity);
      this.loading = false;
      this.version.set(this.version.get() + 1);
    });
  }

  private take(changed: Map<string, Entity | undefined>): void {
    const prefix = entityKey(this.type, "");
    let hit = false;
    for (const [name, entity] of changed) {
      if (!name.startsWith(prefix)) continue;
      hit = true;
      const id = name.slice(prefix.length);
      // A local name that has become another shows under that one only.
      if (entity && entity.id === id) this.entities.set(id, entity);
      else this.entities.delete(id);
    }
    if (hit) this.version.set(this.version.get() + 1);
  }
}

/** The views of one replica. */
export class Views {
  private readonly collections = new Map<string, Collection>();
  constructor(private readonly replica: Replica) {}

  /** Several entities of a type. */
  query<F = Fields>(type: string, options: QueryOptions<F> = {}): Live<Entity<F>[]> {
    const collection = this.collection(type);
    let seen = -1;
    let snapshot: Snapshot<Entity<F>[]> = { data: [], loading: true };
    const get = () => {
      const version = collection.version.get();
      if (version === seen) return snapshot;
      seen = version;
      const data = pick(collection.entities.values() as unknown as Iterable<Entity<F>>, options);
      const same = data.length === snapshot.data.length && data.every((entity, at) => entity === snapshot.data[at]);
      if (!same || snapshot.loading !== collection.loading) snapshot = { data, loading: collection.loading };
      return snapshot;
    };
    return {
      get,
      subscribe: collection.version.subscribe,
      ready: async () => {
        await collection.loaded;
        return get().data;
      },
    };
  }

  /** One entity. */
  entity<F = Fields>(type: string, id: string): Live<Entity<F> | undefined> {
    const value = new Watched<Snapshot<Entity<F> | undefined>>({ data: undefined, loading: true });
    const { replica } = this;
    const load = () => {
      replica.use();
      return replica.transact(async () => {
        value.set({ data: (await replica.get(type, id)) as Entity<F> | undefined, loading: false });
      });
    };
    let listening: (() => void)[];
    let loaded: Promise<void> | undefined;
    const listen = held(
      () => {
        listening = [
          replica.events.on("changed", (changed) => {
            const name = entityKey(type, replica.resolve(type, id));
            if (changed.has(name)) value.set({ data: changed.get(name) as Entity<F> | undefined, loading: false });
          }),
          replica.events.on("reset", () => void load()),
        ];
        loaded = load();
      },
      () => listening.forEach((end) => end()),
    );
    return {
      get: value.get,
      subscribe: (listener) => {
        const ends = [listen(), value.subscribe(listener)];
        return () => ends.forEach((end) => end());
      },
      ready: async () => {
        await (loaded ?? load());
        return value.get().data;
      },
    };
  }

  private collection(type: string): Collection {
    let known = this.collections.get(type);
    if (!known) this.collections.set(type, (known = new Collection(this.replica, type)));
    return known;
  }
}
