/** The store of Expo apps: one SQLite file through `expo-sqlite`. A `commit` is one transaction. */

import { TABLES, type Put, type Storage, type Table } from "./storage.js";

/** The part of an `expo-sqlite` database that is used; any other binding of this shape will do. */
export interface SqliteDatabase {
  execAsync(sql: string): Promise<void>;
  runAsync(sql: string, params: (string | null)[]): Promise<unknown>;
  getAllAsync<T>(sql: string, params: (string | null)[]): Promise<T[]>;
  withExclusiveTransactionAsync?(task: (transaction: SqliteDatabase) => Promise<void>): Promise<void>;
  withTransactionAsync(task: () => Promise<void>): Promise<void>;
  closeAsync(): Promise<void>;
}

/** A store in this database, whose table `syncline` it makes. */
export async function openSqlite(database: SqliteDatabase): Promise<Storage> {
  await database.execAsync(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; " +
      "CREATE TABLE IF NOT EXISTS syncline (tbl INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, " +
      "PRIMARY KEY (tbl, key)) WITHOUT ROWID",
  );
  return new SqliteStorage(database);
}

const number = (table: Table): string => String(TABLES.indexOf(table));

class SqliteStorage implements Storage {
  constructor(private readonly database: SqliteDatabase) {}

  async get(table: Table, key: string): Promise<unknown> {
    const sql = "SELECT value FROM syncline WHERE tbl = ? AND key = ?";
    const [row] = await this.database.getAllAsync<{ value: string }>(sql, [number(table), key]);
    return row && (JSON.parse(row.value) as unknown);
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    const sql = "SELECT key, value FROM syncline WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key";
    const params = [number(table), prefix, `${prefix}\u{10ffff}`];
    const rows = await this.database.getAllAsync<{ key: string; value: string }>(sql, params);
    return rows.map(({ key, value }) => [key, JSON.parse(value) as unknown]);
  }

  async commit(puts: Put[]): Promise<void> {
    const all = async (database: SqliteDatabase) => {
      for (const { table, key, value } of puts) {
        if (value === undefined) {
          await database.runAsync("DELETE FROM syncline WHERE tbl = ? AND key = ?", [number(table), key]);
        } else {
          const sql = "INSERT INTO syncline (tbl, key, value) VALUES (?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET value = excluded.value";
          await database.runAsync(sql, [number(table), key, JSON.stringify(value)]);
        }
      }
    };
    // The exclusive kind keeps the app's own statements on this connection out of the transaction.
    if (this.database.withExclusiveTransactionAsync) await this.database.withExclusiveTransactionAsync(all);
    else await this.database.withTransactionAsync(() => all(this.database));
  }

  close(): Promise<void> {
    return this.database.closeAsync();
  }
}
