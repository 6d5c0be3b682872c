/** A store that lasts as long as the process: for tests, for Node, and for apps that need nothing offline. */

import type { Put, Storage, Table } from "./storage.js";

/** In memory. Values are copied in and out, as any other store would. */
export class MemoryStorage implements Storage {
  private readonly tables = new Map<Table, Map<string, string>>();

  async get(table: Table, key: string): Promise<unknown> {
    const text = this.tables.get(table)?.get(key);
    return text === undefined ? undefined : JSON.parse(text);
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    const found = [...(this.tables.get(table) ?? [])].filter(([key]) => key.startsWith(prefix));
    return found.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, text]) => [key, JSON.parse(text) as unknown]);
  }

  async commit(puts: Put[]): Promise<void> {
    for (const { table, key, value } of puts) {
      let records = this.tables.get(table);
      if (!records) this.tables.set(table, (records = new Map()));
      if (value === undefined) records.delete(key);
      else records.set(key, JSON.stringify(value));
    }
  }

  async close(): Promise<void> {}
}
