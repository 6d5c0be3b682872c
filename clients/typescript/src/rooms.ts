/** The rooms this client wants to be in, joined again in one request after every reconnect. */

import { Retry } from "./backoff.js";
import { type Connection, refusal } from "./connection.js";
import { RequestError } from "./errors.js";
import type { Clock } from "./platform.js";
import type { SubscribeRoom } from "./protocol/client.gen.js";
import type { PresenceList, Refusal, ServerGoneFrame, ServerResyncFrame, ServerSubscribedFrame } from "./protocol/server.gen.js";

/** How joining a room went. */
export interface Joined {
  room: string;
  seq?: number;
  epoch?: string;
  recovered?: boolean;
  resync?: string;
  scope?: string;
  presence?: PresenceList;
  error?: RequestError | undefined;
}

type Asked = Omit<SubscribeRoom, "room">;

/** A room somebody wants to be in. */
export interface Wanted {
  room: string;
  /** What to ask with; `undefined` keeps it out of the next request. */
  ask(): { [Name in keyof Asked]: Asked[Name] | undefined } | undefined;
  /** It is joined, or refused for good. */
  answered(answer: Joined): void;
  /** What came from the room is of no use any more, or may not be read. */
  told?(frame: ServerGoneFrame | ServerResyncFrame): void;
  lost?(): void;
}

/** Rooms in one request: answers stay far below any frame's limit. */
const AT_ONCE = 100;

/** Keeps the subscriptions of one connection. */
export class Rooms {
  readonly #wanted = new Map<string, Wanted>();
  readonly #asking = new Set<string>();
  #due = new Set<string>();
  #scheduled = false;
  readonly #retry: Retry;
  /** What is joined again then. */
  readonly #again = new Set<string>();

  constructor(
    private readonly connection: Connection,
    clock: Clock,
  ) {
    this.#retry = new Retry(clock, () => {
      this.join(...this.#again);
      this.#again.clear();
    });
    connection.events.on("open", () => {
      this.#asking.clear();
      this.join(...this.#wanted.keys());
    });
    connection.events.on("frame", (frame) => {
      if (frame.type === "gone" || frame.type === "resync") this.#wanted.get(frame.room)?.told?.(frame);
    });
    connection.events.on("lost", () => {
      this.#asking.clear();
      for (const room of this.#wanted.values()) room.lost?.();
    });
  }

  /** Joins a room and stays in it. */
  add(wanted: Wanted): void {
    this.#wanted.set(wanted.room, wanted);
    this.join(wanted.room);
  }

  /** Leaves a room. */
  remove(room: string): void {
    // Whoever comes back asks anew: an answer that is under way speaks of before.
    this.#asking.delete(room);
    if (this.#wanted.delete(room)) this.connection.send({ type: "unsubscribe", rooms: [room] });
  }

  /** Joins what is wanted of a project again: the user may do more there than before. */
  rejoin(project: string): void {
    for (const room of this.#wanted.keys()) if (room.split(":")[1] === project) this.join(room);
  }

  /** Asks for rooms; what is asked for in the same moment goes into one request. */
  join(...rooms: string[]): void {
    for (const room of rooms) this.#due.add(room);
    if (this.#scheduled) return;
    this.#scheduled = true;
    void Promise.resolve().then(() => {
      this.#scheduled = false;
      const due = [...this.#due].filter((room) => !this.#asking.has(room));
      this.#due.clear();
      if (this.connection.state.get() !== "online") return;
      for (let at = 0; at < due.length; at += AT_ONCE) void this.#ask(due.slice(at, at + AT_ONCE));
    });
  }

  async #ask(names: string[]): Promise<void> {
    const rooms: SubscribeRoom[] = [];
    for (const room of names) {
      const asked = this.#wanted.get(room)?.ask();
      if (asked) rooms.push({ room, ...asked } as SubscribeRoom);
    }
    if (rooms.length === 0) return;
    for (const { room } of rooms) this.#asking.add(room);
    let answers: { room: string; error?: Refusal }[] = rooms;
    let all: RequestError | undefined;
    try {
      answers = ((await this.connection.ask({ type: "subscribe", rooms })) as ServerSubscribedFrame).rooms;
    } catch (error) {
      // A connection that broke joins everything when it is back.
      if (!(error instanceof RequestError)) return;
      all = error;
    }
    let whole = true;
    for (const answer of answers) {
      const { room } = answer;
      const error = all ?? (answer.error && refusal(answer.error));
      this.#asking.delete(room);
      if (error?.retryable) {
        this.#again.add(room);
        this.#retry.after(error);
        whole = false;
      } else this.#wanted.get(room)?.answered({ ...answer, error });
    }
    if (whole) this.#retry.worked();
  }
}
