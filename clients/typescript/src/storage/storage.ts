/** The one interface between the client and whatever keeps its data on the device. */

/** What is kept, each under text keys. */
export const TABLES = ["rows", "ops", "cursors", "ids", "conflicts", "log", "meta"] as const;

/** A kind of record. */
export type Table = (typeof TABLES)[number];

/** One change of the store; without a `value` the record is removed. Values are plain JSON. */
export interface Put {
  table: Table;
  key: string;
  value?: unknown;
}

/**
 * A store. `commit` is one transaction: after a crash all of it is there or nothing. Calls are made one after
 * another by one client; a store belongs to one client at a time.
 */
export interface Storage {
  /** One record. */
  get(table: Table, key: string): Promise<unknown>;
  /** All records whose key begins with `prefix`, in the order of their keys. */
  list(table: Table, prefix: string): Promise<[key: string, value: unknown][]>;
  /** Does all of it, durably, or nothing. */
  commit(puts: Put[]): Promise<void>;
  /** Lets go of files and connections. */
  close(): Promise<void>;
}

/** Between the parts of a key: no name has it, because names are printable. */
export const SEPARATOR = "\u001f";

/** A key of parts. */
export const key = (...parts: string[]): string => parts.join(SEPARATOR);

/** What all keys below these parts begin with; without parts, all keys. */
export const below = (...parts: string[]): string => parts.map((part) => part + SEPARATOR).join("");
