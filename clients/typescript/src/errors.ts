/** What can go wrong, as classes that a program can tell apart and sentences that a person can read. */

import type { Verdict } from "./protocol/server.gen.js";

/** Every error of this client. */
export class SynclineError extends Error {
  override name = "SynclineError";
}

/** The session is over: nobody will be let in until there is a new login. The client does not try again. */
export class AuthError extends SynclineError {
  override name = "AuthError";
}

/** The local store is another user's. Nothing of it is shown, and nothing that waits in it is sent. */
export class WrongUserError extends AuthError {
  override name = "WrongUserError";
  constructor() {
    super("the local store is another user's: open one for each, or `clear` it");
  }
}

/** The hub closed the connection for good, with a code from 4400 on. */
export class ClosedError extends SynclineError {
  override name = "ClosedError";
  constructor(
    readonly code: number,
    reason: string,
  ) {
    super(`the connection was closed for good: ${code} ${reason}`);
  }
}

/** There is no connection, or it broke before the answer. */
export class DisconnectedError extends SynclineError {
  override name = "DisconnectedError";
  constructor(message = "there is no connection to the hub") {
    super(message);
  }
}

/** The hub refused a request. */
export class RequestError extends SynclineError {
  override name = "RequestError";
  constructor(
    readonly code: string,
    message: string,
    readonly retryAfterMs?: number,
    readonly detail?: unknown,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later: by its kind, or because the hub says when to come again. */
  get retryable(): boolean {
    return this.busy || RETRYABLE.includes(this.code);
  }

  /** @internal Whether the hub wants to be left alone, and not this request alone is to wait. */
  get busy(): boolean {
    return this.retryAfterMs !== undefined || BUSY.includes(this.code);
  }
}

/** Whether the hub says that the user may not do, or read, this. */
export const isForbidden = (refusal: unknown): boolean => (refusal as { code?: unknown } | null)?.code === "forbidden";

/** Codes of a hub that would refuse any other request as well, for the moment. */
const BUSY = ["rate_limited", "overloaded", "unavailable"];
/**
 * Codes of what else may succeed later. `timeout` is the client's own: there was no answer. With `not_subscribed` the room
 * was left while it was being joined: who wants to be in it again, asks again.
 */
const RETRYABLE = ["internal", "checksum_mismatch", "timeout", "not_subscribed"];

/** An operation was refused for good. It stays in the failed lane until it is retried or discarded. */
export class RejectedError extends SynclineError {
  override name = "RejectedError";
  constructor(readonly verdict: Pick<Verdict, "op_id" | "code" | "message">) {
    super(verdict.message ?? `the operation was rejected: ${verdict.code}`);
  }
}

/** The operation was thrown away by the user before the hub had decided it. */
export class DiscardedError extends SynclineError {
  override name = "DiscardedError";
  constructor() {
    super("the operation was discarded");
  }
}

/** Another tab has the store open. Two clients on one store would both send what waits in it. */
export class InUseError extends SynclineError {
  override name = "InUseError";
  constructor(store: string) {
    super(`the store ${store} is open in another tab: close that, or open with \`wait\``);
  }
}

/** The local store failed. */
export class StorageError extends SynclineError {
  override name = "StorageError";
  /** Whether there is no room left. */
  readonly full: boolean;
  constructor(cause: unknown) {
    const name = (cause as { name?: string } | null)?.name ?? "";
    const text = cause instanceof Error ? cause.message : String(cause);
    const full = /quota|full|SQLITE_FULL/i.test(`${name} ${text}`);
    super(full ? "the local store is full: free some space" : `the local store failed: ${text}`, { cause });
    this.full = full;
  }
}
