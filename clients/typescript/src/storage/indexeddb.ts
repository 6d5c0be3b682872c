/** The store of browsers. A `commit` is one IndexedDB transaction. */

import { TABLES, type Put, type Storage, type Table } from "./storage.js";

/** Where the database is. */
export interface IndexedDbOptions {
  /** Its name; one database serves one client at a time. */
  name?: string;
  factory?: IDBFactory;
}

/** Opens the database, and makes it the first time. */
export async function openIndexedDb(options: IndexedDbOptions = {}): Promise<Storage> {
  const { name = "syncline", factory = indexedDB } = options;
  const request = factory.open(name, 1);
  request.onupgradeneeded = () => {
    for (const table of TABLES) request.result.createObjectStore(table);
  };
  const database = await done(request);
  // Another tab with a newer version of the app wants to change it: do not stand in its way.
  database.onversionchange = () => database.close();
  return new IndexedDbStorage(database);
}

class IndexedDbStorage implements Storage {
  constructor(private readonly database: IDBDatabase) {}

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
    this.database.close();
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB failed"));
  });
}
