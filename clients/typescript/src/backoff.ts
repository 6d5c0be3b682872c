/** How long to wait before trying again. */

import { RequestError } from "./errors.js";
import type { Clock } from "./platform.js";

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

/** Something that is done again after it failed, later each time. */
export class Retry {
  #attempts = 0;
  #stop: (() => void) | undefined;

  constructor(
    private readonly clock: Clock,
    private readonly run: () => void,
  ) {}

  /** Whether it is to be done again. */
  get waits(): boolean {
    return this.#stop !== undefined;
  }

  /** It failed with this: again after the back-off, and not before the hub wants to see it. */
  after(error: unknown): void {
    if (this.#stop) return;
    const asked = error instanceof RequestError ? error.retryAfterMs : 0;
    const ms = Math.max(asked ?? 0, wait(SEND, this.#attempts++, this.clock.random()));
    this.#stop = this.clock.after(ms, () => {
      this.#stop = undefined;
      this.run();
    });
  }

  /** It worked: the next failure is a first one. */
  worked(): void {
    this.#attempts = 0;
  }

  /** It is done anyway, or not wanted any more. */
  stop(): void {
    this.#stop?.();
    this.#stop = undefined;
  }
}

/** What a close code asks for. */
export type AfterClose = "reconnect" | "refresh" | "later" | "stop" | "login";

/** By range, so that codes of later hubs are understood, too. */
export function afterClose(code: number): AfterClose {
  // Not in time is no refusal: the network was slow, or whoever makes the tokens.
  const ranges: Record<number, AfterClose> = { 41: "refresh", 42: "later", 44: "stop", 4401: "login", 4408: "reconnect" };
  return ranges[code] ?? ranges[Math.floor(code / 100)] ?? "reconnect";
}
