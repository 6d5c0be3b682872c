/** How long to wait before trying again: pure functions. */

import { RequestError } from "./errors.js";

/** Shape of a back-off. */
export interface Backoff {
  /** Least wait, milliseconds. */
  min: number;
  /** What the first wait is drawn below. */
  base: number;
  /** What no wait is drawn above. */
  max: number;
}

/** For connections. */
export const CONNECT: Backoff = { min: 100, base: 1000, max: 30_000 };
/** For a hub that said it has no room. */
export const CROWDED: Backoff = { min: 2000, base: 10_000, max: 120_000 };
/** For operations. */
export const SEND: Backoff = { min: 100, base: 1000, max: 60_000 };

/** Full jitter: a thousand clients that failed together do not come back together. */
export function wait(backoff: Backoff, attempt: number, random: number): number {
  const ceiling = Math.min(backoff.max, backoff.base * 2 ** Math.min(attempt, 30));
  return Math.round(backoff.min + random * ceiling);
}

/** The wait after a request that failed with this: what the hub asks for, and no less than the back-off. */
export function waitAfter(error: unknown, attempt: number, random: number): number {
  const asked = error instanceof RequestError ? error.retryAfterMs : 0;
  return Math.max(asked ?? 0, wait(SEND, attempt, random));
}

/** What a close code asks for. */
export type AfterClose = "reconnect" | "refresh" | "later" | "stop";

/** By range, so that codes of later hubs are understood, too. */
export function afterClose(code: number): AfterClose {
  const ranges: Record<number, AfterClose> = { 41: "refresh", 42: "later", 44: "stop" };
  return ranges[Math.floor(code / 100)] ?? "reconnect";
}
