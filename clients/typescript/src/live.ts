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

type Changed = Map<string, Entity | undefined>;

/** Reads something, and keeps it in memory and true while somebody looks at it. */
function kept<T>(replica: Replica, empty: T, read: () => Promise<T>, take: (changed: Changed, was: T) => T) {
  const nothing: Snapshot<T> = { data: empty, loading: true };
  const value = new Watched(nothing);
  let loaded: Promise<void> | undefined;
  let end: () => void;
  const load = () => {
    replica.use();
    // In line with the transactions, so that no change falls between reading and hearing.
    const reading = replica.transact(async () => {
      const data = await read();
      // Unless nobody looks any more.
      if (loaded) value.set({ data, loading: false });
    });
    loaded = reading;
    // What could not be read is read again for the next who looks, and with the next change.
    reading.catch(() => loaded === reading && (loaded = undefined));
  };
  const hear = (changed: Changed | undefined) => {
    if (!changed || !loaded) return load();
    const { data, loading } = value.get();
    const next = take(changed, data);
    if (!loading && next !== data) value.set({ data: next, loading });
  };
  const hold = held(
    () => (end = replica.events.on("changed", hear)),
    () => {
      end();
      loaded = undefined;
      value.set(nothing);
    },
  );
  const look = () => {
    const end = hold();
    if (!loaded) load();
    return { end, loaded };
  };
  return { value, look };
}

/** A view of what is kept. While nobody looks it shows what it saw last. */
function view<T, S>({ value, look }: ReturnType<typeof kept<T>>, empty: S, show: (data: T, was: S) => S): Live<S> {
  let seen: Snapshot<T> | undefined;
  let snapshot: Snapshot<S> = { data: empty, loading: true };
  const get = () => {
    const now = value.get();
    if (now === seen || now.loading) return snapshot;
    seen = now;
    const data = show(now.data, snapshot.data);
    if (data !== snapshot.data || snapshot.loading) snapshot = { data, loading: false };
    return snapshot;
  };
  return {
    get,
    subscribe: (listener) => {
      const ends = [value.subscribe(listener), look().end];
      return () => ends.forEach((end) => end());
    },
    ready: async () => {
      const { end, loaded } = look();
      try {
        await loaded;
        return get().data;
      } finally {
        end();
      }
    },
  };
}

/** The views of one replica. */
export class Views {
  readonly #types = new Map<string, ReturnType<typeof kept<ReadonlyMap<string, Entity>>>>();
  constructor(private readonly replica: Replica) {}

  /** Several entities of a type. */
  query<F = Fields>(type: string, options: QueryOptions<F> = {}): Live<Entity<F>[]> {
    return view(this.#type(type), [] as Entity<F>[], (entities, was) => {
      const data = pick(entities.values() as unknown as Iterable<Entity<F>>, options);
      return data.length === was.length && data.every((entity, at) => entity === was[at]) ? was : data;
    });
  }

  /** One entity. */
  entity<F = Fields>(type: string, id: string): Live<Entity<F> | undefined> {
    const { replica } = this;
    const read = () => replica.get(type, id);
    const take = (changed: Changed, was: Entity | undefined) => {
      const name = entityKey(type, replica.resolve(type, id));
      return changed.has(name) ? changed.get(name) : was;
    };
    return view(kept(replica, undefined, read, take), undefined, (entity) => entity as Entity<F> | undefined);
  }

  /** All entities of a type, once for all who look. */
  #type(type: string) {
    const { replica } = this;
    const types = this.#types;
    const read = async () => new Map((await replica.list(type)).map((entity) => [entity.id, entity]));
    const take = (changed: Changed, was: ReadonlyMap<string, Entity>) => {
      const entities = new Map(was);
      const prefix = entityKey(type, "");
      let hit = false;
      for (const [name, entity] of changed) {
        if (!name.startsWith(prefix)) continue;
        hit = true;
        const id = name.slice(prefix.length);
        // A local name that has become another shows under that one only.
        if (entity && entity.id === id) entities.set(id, entity);
        else entities.delete(id);
      }
      return hit ? entities : was;
    };
    const known = types.get(type) ?? kept(replica, new Map() as ReadonlyMap<string, Entity>, read, take);
    types.set(type, known);
    return known;
  }
}
