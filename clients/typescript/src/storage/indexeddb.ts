/**
 * The store of browsers. A `commit` is one IndexedDB transaction.
 *
 * A Web Lock keeps a second tab out, or lets it wait for its turn: the browser gives it back however a tab ends.
 * Where there are no Web Locks, the app has to see to that.
 */

import { InUseError } from "../errors.js";
import { TABLES, type Put, type Storage, type Table } from "./storage.js";

/** The part of `navigator.locks` that is used. */
export interface LocksLike {
  request(name: string, options: { signal?: AbortSignal }, granted: () => Promise<void>): Promise<unknown>;
}

/** Where the database is. */
export interface IndexedDbOptions {
  /** Its name; one database serves one client at a time. */
  name?: string;
  factory?: IDBFactory;
  /** If another tab has it: waits until that tab is done or gone, instead of an `InUseError`. A signal ends the wait. */
  wait?: boolean | AbortSignal;
  /** Instead of `navigator.locks`. */
  locks?: LocksLike;
}

/** Opens the database, and makes it the first time. */
export async function openIndexedDb(options: IndexedDbOptions = {}): Promise<Storage> {
  const { name = "syncline", factory = indexedDB, wait = false } = options;
  const locks = options.locks ?? (globalThis as { navigator?: { locks?: LocksLike } }).navigator?.locks;
  const release = locks ? await hold(locks, name, wait) : () => {};
  try {
    const request = factory.open(name, 1);
    request.onupgradeneeded = () => {
      for (const table of TABLES) request.result.createObjectStore(table);
    };
    const database = await done(request);
    // Another tab with a newer version of the app wants to change it: do not stand in its way.
    database.onversionchange = () => {
      database.close();
      release();
    };
    return new IndexedDbStorage(database, release);
  } catch (error) {
    release();
    throw error;
  }
}

/** How long a page that is being reloaded may still hold what its successor asks for. */
const RELOAD_MS = 1000;

/** Takes the database's lock; the returned function gives it back. */
function hold(locks: LocksLike, name: string, wait: boolean | AbortSignal): Promise<() => void> {
  return new Promise((resolve, reject) => {
    const patience = new AbortController();
    const timer = wait === false ? setTimeout(() => patience.abort(new InUseError(name)), RELOAD_MS) : undefined;
    const granted = () => {
      clearTimeout(timer);
      return new Promise<void>((release) => resolve(release));
    };
    const signal = typeof wait === "object" ? wait : patience.signal;
    locks.request(`syncline:${name}`, { signal }, granted).catch(reject);
  });
}

class IndexedDbStorage implements Storage {
  constructor(
    private readonly database: IDBDatabase,
    private readonly release: () => void,
  ) {}

  get(table: Table, key: string): Promise<unknown> {
    return done(this.database.transaction(table).objectStore(table).get(key));
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    const store = this.database.transaction(table).objectStore(table);
    const range = { lower: prefix, upper: `${prefix}\uffff` };
    const within = IDBKeyRange.bound(range.lower, range.upper);
    const [keys, values] = await Promise.all([done(store.getAllKeys(within)), done(store.getAll(within))]);
    return keys.map((key, at) => [String(key), values[at] as unknown]);
  }

  commit(puts: Put[]): Promise<void> {
    return new Promise((resolve, reject) => {
      const tables = [...new Set(puts.map(({ table }) => table))];
      if (tables.length === 0) return resolve();
      // Relaxed durability would lose what a verdict was stored for when the power fails.
      const transaction = this.database.transaction(tables, "readwrite", { durability: "strict" });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the transaction was aborted"));
      try {
        for (const { table, key, value } of puts) {
          const store = transaction.objectStore(table);
          if (value === undefined) store.delete(key);
          else store.put(value, key);
        }
      } catch (error) {
        // A value that cannot be stored: what was put before it would be committed otherwise.
        transaction.abort();
        reject(error as Error);
      }
    });
  }

  async close(): Promise<void> {
    // A commit that is under way ends before the database does; the next tab's transactions come after it.
    this.database.close();
    this.release();
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}
