/**
 * Pushes in an app: its device registered, what came reported, links handed on, the badge kept right. It knows no
 * push service's module; `registerPush` connects it with Expo's.
 */

import type { Client, Parts } from "../client.js";
import { SynclineError } from "../errors.js";
import { type DeviceInfo, Registration } from "./device.js";
import { Inbox, type InboxQuery } from "./inbox.js";
import { allowedLink, type PushData, pushData } from "./links.js";
import { Reports } from "./reports.js";

/** What an app makes of pushes. */
export interface PushOptions {
  /** The schemes of links that reach `onLink`, e.g. `["app", "https"]`. */
  schemes: readonly string[];
  /** A push was opened whose link is allowed. */
  onLink?: (link: string, push: PushData) => void;
  /** What went wrong for good: a device or a report refused by the hub, a link of another scheme. */
  onError?: (error: SynclineError) => void;
  /** Shows how much is unread at the app's icon. */
  setBadge?: (count: number) => unknown;
  /** What of the inbox counts, e.g. `{ project: "site-7" }`. */
  inbox?: InboxQuery;
}

/** Opened pushes remembered: a platform tells of the last one again at each start of the app. */
const OPENED = 50;

/** Makes it; one for each client, before `connect`. */
export async function openPush(client: Client, options: PushOptions): Promise<Push> {
  const fail = (error: unknown) => options.onError?.(error instanceof SynclineError ? error : new SynclineError(String(error), { cause: error }));
  const registration = await Registration.open(client, fail);
  const opened = (await client.parts.store.get<string[]>("meta", "opened")) ?? [];
  return new Push(client, options, registration, opened, fail);
}

/** Pushes of one client. Made by `openPush` or `registerPush`. */
export class Push {
  /** What the user was notified of, and how much is unread. */
  readonly inbox: Inbox;
  private readonly parts: Parts;
  private readonly reports: Reports;
  private readonly ends: (() => void)[];
  private badge: number | undefined;

  /** @internal */
  constructor(
    private readonly client: Client,
    private readonly options: PushOptions,
    private readonly registration: Registration,
    private openedBefore: string[],
    /** @internal Tells the app what nobody waits for. */
    readonly fail: (error: unknown) => void,
  ) {
    this.parts = client.parts;
    this.reports = new Reports(this.parts, fail);
    this.inbox = new Inbox(this.parts.http, options.inbox);
    const came = () => {
      void this.registration.settle();
      void this.reports.flush();
      void this.inbox.refresh();
    };
    this.ends = [
      this.inbox.state.subscribe(() => this.showBadge()),
      this.parts.connection.events.on("open", came),
      client.on("notification", () => void this.inbox.refresh()),
    ];
    if (this.parts.connection.hello) came();
    else void this.reports.flush();
  }

  /** Registers this device, now or as soon as there is a session. Nothing is sent if the hub knows it already. */
  register(device: DeviceInfo): Promise<void> {
    return this.registration.want(device);
  }

  /** @internal What the device says of itself now, if it is registered. */
  update(about: Omit<DeviceInfo, "token">): Promise<void> {
    return this.registration.update(about);
  }

  /**
   * Takes this device from the user; call it before they log out. Fails if the hub could not be told: until it is,
   * their pushes may still come.
   */
  async unregister(): Promise<void> {
    this.inbox.forget();
    await this.registration.leave();
  }

  /** Whether a push was shown to the user in no way yet, live or as a push. From now on it was. */
  first(data: unknown): boolean {
    const push = pushData(data);
    return push === undefined || this.client.firstTime(push.nid);
  }

  /** A push arrived: reports it. Resolves when that is stored and was tried. */
  async received(data: unknown): Promise<void> {
    const push = pushData(data);
    if (!push) return;
    if (this.parts.connection.hello) void this.inbox.refresh();
    if (push.report !== undefined) await this.reports.add("received", push.nid, push.report);
  }

  /** The user opened a push: hands its link on and reports it. Once, however often it is told. */
  async opened(data: unknown): Promise<void> {
    const push = pushData(data);
    if (!push || this.openedBefore.includes(push.nid)) return;
    this.client.firstTime(push.nid);
    this.openedBefore = [...this.openedBefore, push.nid].slice(-OPENED);
    const stored = this.parts.store.commit([{ table: "meta", key: "opened", value: this.openedBefore }]);
    if (push.link !== undefined) this.follow(push.link, push);
    await stored;
    if (push.report !== undefined) await this.reports.add("opened", push.nid, push.report);
  }

  /** Ends it; the device stays registered. */
  stop(): void {
    for (const end of this.ends.splice(0)) end();
    this.registration.stop();
    this.reports.stop();
  }

  /** @internal Something else that ends with it. */
  endWith(end: () => void): void {
    this.ends.push(end);
  }

  private follow(asked: string, push: PushData): void {
    let link: string;
    try {
      link = allowedLink(asked, this.options.schemes);
    } catch (error) {
      return this.fail(error);
    }
    try {
      this.options.onLink?.(link, push);
    } catch (error) {
      // The app's fault, not this client's: it surfaces where uncaught errors do.
      void Promise.reject(error);
    }
  }

  private showBadge(): void {
    const { unread, loading } = this.inbox.state.get();
    if (loading || unread === this.badge) return;
    this.badge = unread;
    // The app's own may take its time, and fail.
    Promise.resolve(this.options.setBadge?.(unread)).catch(this.fail);
  }
}
