/** A database of the shape of `expo-sqlite`, over a real SQLite. */

import Database from "better-sqlite3";
import type { SqliteDatabase } from "../../src/storage/sqlite.js";

/** As `openDatabaseAsync` of `expo-sqlite`, with a file's path. */
export class ExpoLike implements SqliteDatabase {
  private readonly database: Database.Database;
  /** Looks at each statement before it runs: what it throws, or never answers, is what the statement does. */
  before: (sql: string) => void | Promise<void> = () => {};

  constructor(readonly path: string) {
    this.database = new Database(path);
  }

  async execAsync(sql: string): Promise<void> {
    await this.before(sql);
    this.database.exec(sql);
  }

  async runAsync(sql: string, params: (string | null)[]): Promise<unknown> {
    await this.before(sql);
    return this.database.prepare(sql).run(...params);
  }

  async getAllAsync<T>(sql: string, params: (string | null)[]): Promise<T[]> {
    await this.before(sql);
    return this.database.prepare(sql).all(...params) as T[];
  }

  async withTransactionAsync(task: () => Promise<void>): Promise<void> {
    try {
      await this.execAsync("BEGIN");
      await task();
      await this.execAsync("COMMIT");
    } catch (error) {
      await this.execAsync("ROLLBACK");
      throw error;
    }
  }

  async closeAsync(): Promise<void> {
    this.database.close();
  }

  /** How far the disk is waited for: 2 is `FULL`. */
  synchronous(): unknown {
    return this.database.pragma("synchronous", { simple: true });
  }

  /** Closes the file as a killed process does: what is not committed is not there. */
  kill(): void {
    this.before = () => new Promise(() => {});
    this.database.close();
  }
}
