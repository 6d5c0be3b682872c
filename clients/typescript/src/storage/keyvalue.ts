/**
 * A store over anything that keeps texts under keys, such as AsyncStorage.
 *
 * Its promise is weaker than a database's. There is no transaction, so a `commit` first writes all it is about
 * to do into one journal record; opening the store finishes what a crash left half done. That holds as far as
 * a single write is atomic and writes reach the disk in the order they were made, which AsyncStorage does not
 * guarantee when the power fails. Listing reads all keys: good for some thousands of rows, not for more.
 */

import { type Put, SEPARATOR, type Storage, type Table } from "./storage.js";

/** The part of AsyncStorage that is used. */
export interface KeyValue {
  getItem(key: string): Promise<string | null>;
  setItem(key: string, value: string): Promise<void>;
  removeItem(key: string): Promise<void>;
  getAllKeys(): Promise<readonly string[]>;
}

/** Opens the store, and finishes what a crash interrupted. */
export async function openKeyValue(inner: KeyValue, name = "syncline"): Promise<Storage> {
  const storage = new KeyValueStorage(inner, name);
  await storage.recover();
  return storage;
}

class KeyValueStorage implements Storage {
  private readonly journal: string;
  /** What the journal holds and is not all done. */
  private unfinished: Put[] = [];
  constructor(
    private readonly inner: KeyValue,
    private readonly name: string,
  ) {
    this.journal = `${name}${SEPARATOR}journal`;
  }

  async recover(): Promise<void> {
    const text = await this.inner.getItem(this.journal);
    if (text !== null) await this.apply(JSON.parse(text) as Put[]);
  }

  /** A write that failed behind the journal is done before anything else is looked at. */
  private async settled(): Promise<void> {
    if (this.unfinished.length > 0) await this.apply(this.unfinished);
  }

  async get(table: Table, key: string): Promise<unknown> {
    await this.settled();
    const text = await this.inner.getItem(this.full(table, key));
    return text === null ? undefined : (JSON.parse(text) as unknown);
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    await this.settled();
    const start = this.full(table, "");
    const keys = (await this.inner.getAllKeys()).filter((key) => key.startsWith(start + prefix)).sort();
    const found: [string, unknown][] = [];
    for (const key of keys) {
      const text = await this.inner.getItem(key);
      if (text !== null) found.push([key.slice(start.length), JSON.parse(text) as unknown]);
    }
    return found;
  }

  async commit(puts: Put[]): Promise<void> {
    if (puts.length === 0) return;
    await this.settled();
    // One record is written as a whole or not at all; it needs no journal.
    if (puts.length === 1) return this.write(puts[0]!);
    await this.inner.setItem(this.journal, JSON.stringify(puts));
    this.unfinished = puts;
    // It counts from here on: what is in the journal will be done.
    await this.apply(puts).catch(() => {});
  }

  async close(): Promise<void> {}

  private async apply(puts: Put[]): Promise<void> {
    this.unfinished = puts;
    for (const put of puts) await this.write(put);
    await this.inner.removeItem(this.journal);
    this.unfinished = [];
  }

  private async write({ table, key, value }: Put): Promise<void> {
    const full = this.full(table, key);
    if (value === undefined) await this.inner.removeItem(full);
    else await this.inner.setItem(full, JSON.stringify(value));
  }

  private full(table: Table, key: string): string {
    return this.name + SEPARATOR + table + SEPARATOR + key;
  }
}
