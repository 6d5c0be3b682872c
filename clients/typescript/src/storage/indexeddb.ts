/**
 * The store of browsers. A `commit` is one IndexedDB transaction.
 *
 * A connection that the browser closes is made again with the next use. If the data is gone by then, or another tab
 * takes the database away, the store ends: its errors say so, and what waits in the client's memory is all there is.
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
  const storage = new IndexedDbStorage(factory, name, release);
  try {
    await storage.open(true);
    return storage;
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
  /** The connection, until the browser closes it. */
  private database: Promise<IDBDatabase> | undefined;
  /** Why there is none any more. */
  private ended: Error | undefined;

  constructor(
    private readonly factory: IDBFactory,
    private readonly name: string,
    private readonly release: () => void,
  ) {}

  /** The connection, made again if the browser has closed it. */
  async open(first = false): Promise<IDBDatabase> {
    if (this.ended) throw this.ended;
    this.database ??= this.connect(first).catch((error: unknown) => {
      this.database = undefined;
      throw this.ended ?? error;
    });
    return this.database;
  }

  private async connect(first: boolean): Promise<IDBDatabase> {
    const request = this.factory.open(this.name, 1);
    request.onupgradeneeded = () => {
      if (!first) {
        this.end(`the browser has deleted the database ${this.name}: save what \`exportPending\` has, and start the app again`);
        // An empty one would pass for the user's.
        return request.transaction!.abort();
      }
      for (const table of TABLES) request.result.createObjectStore(table);
    };
    const database = await done(request);
    database.onclose = () => (this.database = undefined);
    // Another tab deletes it, or has a newer version of the app that wants to change it: do not stand in its way.
    database.onversionchange = () => {
      database.close();
      this.end(`the database ${this.name} was deleted by another tab, or belongs to a newer version of the app: save what \`exportPending\` has, and start the app again`);
    };
    return database;
  }

  private end(why: string): void {
    this.ended = new Error(why);
    this.release();
  }

  async get(table: Table, key: string): Promise<unknown> {
    const database = await this.open();
    return done(database.transaction(table).objectStore(table).get(key));
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    const store = (await this.open()).transaction(table).objectStore(table);
    const range = { lower: prefix, upper: `${prefix}\uffff` };
    const within = IDBKeyRange.bound(range.lower, range.upper);
    const [keys, values] = await Promise.all([done(store.getAllKeys(within)), done(store.getAll(within))]);
    return keys.map((key, at) => [String(key), values[at] as unknown]);
  }

  async commit(puts: Put[]): Promise<void> {
    const tables = [...new Set(puts.map(({ table }) => table))];
    if (tables.length === 0) return;
    const database = await this.open();
    await new Promise<void>((resolve, reject) => {
      // Relaxed durability would lose what a verdict was stored for when the power fails.
      const transaction = database.transaction(tables, "readwrite", { durability: "strict" });
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
    const { database } = this;
    this.ended ??= new Error("the store is closed");
    // A commit that is under way ends before the database does; the next tab's transactions come after it.
    await database?.then((open) => open.close(), () => {});
    this.release();
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}
