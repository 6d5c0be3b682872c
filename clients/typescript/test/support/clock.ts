/** Time that moves when the test says so. */

import type { Clock } from "../../src/platform.js";

/** Lets everything that is ready run, I/O of `fake-indexeddb` and streams included. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** A clock by hand. `random` is what it is set to. */
export class TestClock implements Clock {
  private time: number;
  private timers: { at: number; run: () => void }[] = [];
  chance = 0.5;
  /** By how much the user has put it on, or back: timers do not care. */
  skew = 0;

  constructor(start = 1_764_000_000_000) {
    this.time = start;
  }

  now(): number {
    return this.time + this.skew;
  }

  random(): number {
    return this.chance;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.time + ms, run };
    this.timers.push(timer);
    return () => void (this.timers = this.timers.filter((other) => other !== timer));
  }

  /** When the next timer is due, from now. */
  get next(): number {
    return Math.min(...this.timers.map(({ at }) => at)) - this.time;
  }

  /** Moves on, running what comes due in order, and lets it all happen. */
  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      await settle();
      const due = this.timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.timers = this.timers.filter((timer) => timer !== due);
      this.time = Math.max(this.time, due.at);
      due.run();
    }
    this.time = end;
    await settle();
  }
}

/** Waits for a condition with real time, and fails with what it waited for. */
export async function eventually(what: string, condition: () => boolean | Promise<boolean>, within = 20_000): Promise<void> {
  const deadline = Date.now() + within;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
