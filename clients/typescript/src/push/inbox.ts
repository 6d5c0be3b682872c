/** The user's inbox at the hub: what they were notified of, and how much of it they have not read. */

import { Watched } from "../emitter.js";
import { SynclineError } from "../errors.js";
import type { Http } from "../http.js";
import type { ServerNotificationFrame } from "../protocol/server.gen.js";

/** A notification, with when it was seen in a list and when it was read. Times are milliseconds since the Unix epoch. */
export type InboxItem = Omit<ServerNotificationFrame, "type"> & { seen_at?: number; read_at?: number };

/** What of the inbox is asked for. */
export interface InboxQuery {
  project?: string;
  /** Only what is not read. */
  unread?: boolean;
  limit?: number;
  /** The language of what is made from a template. */
  locale?: string;
  /** The `next` of the page before. */
  before?: string;
}

/** A page of the inbox, the latest first. */
export interface InboxPage {
  notifications: InboxItem[];
  /** What is not read in all that was asked for; 999 is that or more. */
  unread: number;
  /** Where the next page begins. */
  next?: string;
}

/** What is known of the inbox. The same object as long as nothing changes. */
export interface InboxState {
  notifications: readonly InboxItem[];
  unread: number;
  /** Whether there are older ones. */
  more: boolean;
  loading: boolean;
  /** Why it could not be read; what is shown is older then. */
  problem: SynclineError | undefined;
}

const NOTHING: InboxState = { notifications: [], unread: 0, more: false, loading: true, problem: undefined };

/** The inbox, watched. It is read anew when something may have come. */
export class Inbox {
  /** The latest notifications, and those `more` brought. */
  readonly state = new Watched<InboxState>(NOTHING);
  private next: string | undefined;
  private reading: Promise<void> | undefined;
  private again = false;
  private generation = 0;

  constructor(
    private readonly http: Http,
    private readonly query: InboxQuery = {},
  ) {}

  /** One page. */
  page(query: InboxQuery = {}): Promise<InboxPage> {
    const said = Object.entries({ ...this.query, ...query }).filter(([, value]) => value !== undefined && value !== false);
    const text = said.map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`).join("&");
    return this.http.get<InboxPage>(`/v1/notifications${text === "" ? "" : `?${text}`}`);
  }

  /** Reads the first page anew. However many ask at once, it is read once, and once more for who came late. */
  refresh(): Promise<void> {
    if (this.reading) this.again = true;
    this.reading ??= this.untilRead().finally(() => (this.reading = undefined));
    return this.reading;
  }

  /** Brings older ones. */
  async more(): Promise<void> {
    const { next, generation } = this;
    if (next === undefined) return;
    const page = await this.page({ before: next });
    // Read anew meanwhile: then this page is not the next any more.
    if (generation !== this.generation || next !== this.next) return;
    this.show([...this.state.get().notifications, ...page.notifications], page);
  }

  /** Marks one as read. Its push is not sent any more. */
  async read(nid: string): Promise<void> {
    await this.http.post(`/v1/notifications/${encodeURIComponent(nid)}/read`, "");
    await this.refresh();
  }

  /** Marks all as read, or all up to the latest the user has before them. */
  async readAll(upTo?: string): Promise<void> {
    await this.http.post("/v1/notifications/read-all", this.upTo(upTo));
    await this.refresh();
  }

  /** Marks all as seen in a list, or all up to this one. */
  async seen(upTo?: string): Promise<void> {
    await this.http.post("/v1/notifications/seen", this.upTo(upTo));
    await this.refresh();
  }

  /** Forgets what it knows: the user went. */
  forget(): void {
    this.generation++;
    this.next = undefined;
    this.state.set({ ...NOTHING, loading: false });
  }

  private upTo(nid: string | undefined): string {
    const { project } = this.query;
    return JSON.stringify({ ...(project === undefined ? {} : { project }), ...(nid === undefined ? {} : { up_to: nid }) });
  }

  private async readOnce(): Promise<void> {
    const generation = ++this.generation;
    try {
      const page = await this.page();
      if (generation === this.generation) this.show(page.notifications, page);
    } catch (error) {
      if (generation !== this.generation) return;
      const problem = error instanceof SynclineError ? error : new SynclineError(String(error));
      this.state.set({ ...this.state.get(), loading: false, problem });
    }
  }

  private async untilRead(): Promise<void> {
    do {
      this.again = false;
      await this.readOnce();
    } while (this.again);
  }

  private show(notifications: InboxItem[], { unread, next }: InboxPage): void {
    this.next = next;
    this.state.set({ notifications, unread, more: next !== undefined, loading: false, problem: undefined });
  }
}
