/** The values that move between store, outbox and views. */

import type { Choose, Lane, Notify } from "./protocol/client.gen.js";
import type { ChangeKind, OpKind, Verdict } from "./protocol/server.gen.js";

/** The fields of an entity. */
export type Fields = Record<string, unknown>;

/** An entity as the hub has it, kept on the device. */
export interface Row {
  type: string;
  id: string;
  version: number;
  deleted?: true;
  fields: Fields;
  /** When it was stored. */
  at: number;
  /** The generation of the copy it belongs to: what a fresh copy does not name is dropped. */
  gen: number;
  /** Read by itself, not with its project: it grows old. */
  alone?: true | undefined;
}

/** Up to where a project is stored. */
export interface Cursor {
  seq: number;
  epoch: string;
  scope?: string | undefined;
  gen: number;
  /** A fresh copy is being read, and is not complete yet; `begun` goes along with its next page. */
  sweeping?: true | undefined;
  begun?: unknown;
  /** When somebody last followed the project or looked at it; what the background fetches is no use. */
  used: number;
}

/**
 * Where an operation is: `queued` here, `settled` by the hub but not yet in the rows, `failed` for good until the
 * user decides.
 */
export type OpState = "queued" | "settled" | "failed";

/** One operation in the outbox. What goes over the wire never changes, so that a retry is the same. */
export interface PendingOp {
  opId: string;
  project: string;
  /** Its place in the queue. */
  order: number;
  kind: OpKind;
  type: string;
  id: string;
  base: number;
  fields?: Fields | undefined;
  was?: Fields;
  editedAt: number;
  priority: Lane;
  group?: string | undefined;
  conflict?: string;
  choose?: Choose | undefined;
  expectedVersion?: number;
  notify?: Notify | undefined;
  /** The rejected operation in whose place it is: should that be tried again elsewhere, one of them takes effect. */
  replaces?: string;
  state: OpState;
  /** How often it was sent without a verdict. */
  attempts: number;
  verdict?: Verdict;
  /** Why it failed, or why the last attempt did. */
  problem?: { code: string; message: string };
}

/** What is kept of an operation that its user threw away until the hub knows: its id, and whose place it took. */
export interface Discarded {
  discarded: string[];
}

/** A change of an entity, from a frame or from a page. */
export interface Incoming {
  type: string;
  id: string;
  version: number;
  /** `state` is all of it. */
  kind: ChangeKind | "state";
  prev?: number;
  fields: Fields;
}

/** An entity as the user should see it: the hub's state with the user's pending edits on top. */
export interface Entity<F = Fields> {
  type: string;
  id: string;
  /** 0 while the hub has not heard of it. */
  version: number;
  fields: F;
  /** Edits that the hub has not decided, or whose outcome has not arrived. */
  pending: number;
}

/** The key of an entity within its project. */
export const entityKey = (type: string, id: string): string => `${type}\u001f${id}`;
