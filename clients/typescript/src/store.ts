/** The device's store as the client uses it: rows through a memory cache, failures as one class of error. */

import { StorageError, WrongUserError } from "./errors.js";
import { Emitter } from "./emitter.js";
import { Lru } from "./lru.js";
import type { Row } from "./model.js";
import { MemoryStorage } from "./storage/memory.js";
import { below, key, type Put, SEPARATOR, type Storage, type Table } from "./storage/storage.js";

/** Bytes of rows kept in memory unless the app says otherwise. */
export const MEMORY_BYTES = 50 * 1024 * 1024;

/** Wraps the storage of one client. */
export class Store {
  readonly events = new Emitter<{ failed: StorageError; emptied: undefined }>();
  cache: Lru<Row>;
  /** Whose it is. */
  user: string | undefined;

  constructor(
    private storage: Storage,
    memoryBytes = MEMORY_BYTES,
  ) {
    this.cache = new Lru(memoryBytes);
  }

  get<T>(table: Table, name: string): Promise<T | undefined> {
    return this.#guard(this.storage.get(table, name)) as Promise<T | undefined>;
  }

  async list<T>(table: Table, ...parts: string[]): Promise<[string, T][]> {
    return (await this.#guard(this.storage.list(table, below(...parts)))) as [string, T][];
  }

  /** The projects in which something waits for the hub. */
  async waiting(): Promise<Set<string>> {
    return new Set((await this.list("ops")).map(([name]) => name.split(SEPARATOR)[0]!));
  }

  /** One row, from memory if it is there. */
  async row(project: string, type: string, id: string): Promise<Row | undefined> {
    const name = key(project, type, id);
    const known = this.cache.get(name);
    if (known) return known;
    const row = await this.get<Row>("rows", name);
    if (row) this.cache.set(name, row);
    return row;
  }

  /** Does all of it or nothing; memory follows the store, never the other way. */
  async commit(puts: Put[]): Promise<void> {
    if (puts.length === 0) return;
    await this.#guard(this.storage.commit(puts));
    for (const { table, key: name, value } of puts) {
      if (table !== "rows") continue;
      if (value === undefined) this.cache.delete(name);
      else this.cache.set(name, value as Row);
    }
  }

  /** Makes it this user's. Another's is let go of: from then on nothing is in it, and nothing goes into it. */
  async claim(user: string): Promise<void> {
    if (this.user === user) return;
    if (this.user !== undefined) {
      const { storage } = this;
      this.storage = Object.assign(new MemoryStorage(), { commit: () => Promise.reject(new WrongUserError()) });
      this.cache = new Lru(0);
      this.user = undefined;
      await storage.close().catch(() => {});
      this.events.emit("emptied", undefined);
    }
    await this.commit([{ table: "meta", key: "user", value: user }]);
    this.user = user;
  }

  close(): Promise<void> {
    return this.#guard(this.storage.close());
  }

  async #guard<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (cause) {
      if (cause instanceof WrongUserError) throw cause;
      const error = new StorageError(cause);
      this.events.emit("failed", error);
      throw error;
    }
  }
}
