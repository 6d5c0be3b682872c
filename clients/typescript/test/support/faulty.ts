/** A store that fails, or stops for good, when the test says so. */

import { MemoryStorage } from "../../src/storage/memory.js";
import type { Put, Storage, Table } from "../../src/storage/storage.js";

/** As if the process was killed: nothing answers any more. */
const NEVER = new Promise<never>(() => {});

export class FaultyStorage implements Storage {
  /** Commits made. */
  commits = 0;
  /** Decides a commit before it is made: an error fails it, `"dead"` kills the process before, `"after"` behind it. */
  fault: ((puts: Put[], commit: number) => Error | "dead" | "after" | undefined) | undefined;
  private dead = false;

  constructor(readonly disk = new MemoryStorage()) {}

  get(table: Table, key: string): Promise<unknown> {
    return this.dead ? NEVER : this.disk.get(table, key);
  }

  list(table: Table, prefix: string): Promise<[string, unknown][]> {
    return this.dead ? NEVER : this.disk.list(table, prefix);
  }

  async commit(puts: Put[]): Promise<void> {
    if (this.dead) return NEVER;
    const fault = this.fault?.(puts, ++this.commits);
    if (fault instanceof Error) throw fault;
    if (fault === "dead") return this.die();
    await this.disk.commit(puts);
    if (fault === "after") return this.die();
  }

  async close(): Promise<void> {}

  die(): Promise<never> {
    this.dead = true;
    return NEVER;
  }
}
