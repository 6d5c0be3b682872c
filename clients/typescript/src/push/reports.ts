/**
 * What became of pushes, on its way to the hub: queued durably, tried until the hub has it or refuses it for good.
 * No user's token is needed, the `report` of each push is signed: it works in an app that was woken for the push.
 */

import { Retry } from "../backoff.js";
import type { Parts } from "../client.js";
import { RequestError, SynclineError } from "../errors.js";
import { key } from "../storage/storage.js";

/** What can be reported of a push. Who opened it has received it. */
export type Reported = "received" | "opened";

interface Queued {
  report: string;
  at: number;
}

/** Reports kept while there is no network; beyond it, the oldest go. */
const QUEUED = 200;

/** The reports that wait. */
export class Reports {
  private last: Promise<void> = Promise.resolve();
  private readonly retry: Retry;

  constructor(
    private readonly parts: Parts,
    private readonly fail: (error: SynclineError) => void,
  ) {
    this.retry = new Retry(parts.clock, () => void this.flush());
  }

  /** Queues a report and sends what waits; resolves when it is stored and was tried. */
  async add(what: Reported, nid: string, report: string): Promise<void> {
    const { store, clock } = this.parts;
    const value: Queued = { report, at: clock.now() };
    await store.commit([{ table: "meta", key: key("report", nid, what), value }]);
    await this.flush();
  }

  /** Sends what waits. */
  flush(): Promise<void> {
    this.last = this.last.then(() => this.run()).catch(() => {});
    return this.last;
  }

  stop(): void {
    this.retry.stop();
  }

  private async run(): Promise<void> {
    const { store, http } = this.parts;
    this.retry.stop();
    const waiting = await store.list<Queued>("meta", "report");
    waiting.sort(([, a], [, b]) => a.at - b.at);
    const lost = waiting.splice(0, Math.max(0, waiting.length - QUEUED));
    for (const [name] of lost) await this.drop(name);
    if (lost.length > 0) this.fail(new SynclineError(`${lost.length} reports of pushes were given up: too many waited`));
    for (const [name, { report }] of waiting) {
      const [, nid, what] = name.split(key("", "")) as [string, string, Reported];
      try {
        await http.once(`/v1/push/${what}`, JSON.stringify({ nid, report }));
      } catch (error) {
        if (!(error instanceof RequestError) || error.retryable) {
          return this.retry.after(error);
        }
        this.fail(new SynclineError(`the hub refuses the report that a push was ${what}: ${error.message}`, { cause: error }));
      }
      this.retry.worked();
      await this.drop(name);
    }
  }

  private drop(name: string): Promise<void> {
    return this.parts.store.commit([{ table: "meta", key: name }]);
  }
}
