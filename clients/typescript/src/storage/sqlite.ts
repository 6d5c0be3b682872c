/**
 * The store of Expo apps: one SQLite file through `expo-sqlite`. A `commit` is one transaction.
 *
 * It is made on the connection given, because `synchronous` holds for one connection and cannot be set within a
 * transaction: Expo's exclusive transactions have a connection of their own, on which a commit may be lost with the
 * power. So the connection belongs to the store, and calls are made one after another: whoever read in the midst of a
 * commit would see what may be rolled back.
 */

import { TABLES, type Put, type Storage, type Table } from "./storage.js";

/** The part of an `expo-sqlite` database that is used; any other binding of this shape will do. */
export interface SqliteDatabase {
  execAsync(sql: string): Promise<void>;
  runAsync(sql: string, params: (string | null)[]): Promise<unknown>;
  getAllAsync<T>(sql: string, params: (string | null)[]): Promise<T[]>;
  withTransactionAsync(task: () => Promise<void>): Promise<void>;
  closeAsync(): Promise<void>;
}

/** A store in this database, whose table `syncline` it makes. Nothing else may use this connection. */
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
  private tail: Promise<unknown> = Promise.resolve();

  constructor(private readonly database: SqliteDatabase) {}

  async get(table: Table, key: string): Promise<unknown> {
    const sql = "SELECT value FROM syncline WHERE tbl = ? AND key = ?";
    const [row] = await this.inTurn(() => this.database.getAllAsync<{ value: string }>(sql, [number(table), key]));
    return row && (JSON.parse(row.value) as unknown);
  }

  async list(table: Table, prefix: string): Promise<[string, unknown][]> {
    const sql = "SELECT key, value FROM syncline WHERE tbl = ? AND key >= ? AND key < ? ORDER BY key";
    const params = [number(table), prefix, `${prefix}\u{10ffff}`];
    const rows = await this.inTurn(() => this.database.getAllAsync<{ key: string; value: string }>(sql, params));
    return rows.map(({ key, value }) => [key, JSON.parse(value) as unknown]);
  }

  commit(puts: Put[]): Promise<void> {
    return this.inTurn(() =>
      this.database.withTransactionAsync(async () => {
        for (const { table, key, value } of puts) {
          if (value === undefined) {
            await this.database.runAsync("DELETE FROM syncline WHERE tbl = ? AND key = ?", [number(table), key]);
          } else {
            const sql = "INSERT INTO syncline (tbl, key, value) VALUES (?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET value = excluded.value";
            await this.database.runAsync(sql, [number(table), key, JSON.stringify(value)]);
          }
        }
      }),
    );
  }

  close(): Promise<void> {
    return this.inTurn(() => this.database.closeAsync());
  }

  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.tail.then(work, work);
    this.tail = done.catch(() => {});
    return done;
  }
}
