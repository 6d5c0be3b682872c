/** An ephemeral room: who is here, and what is said. Nothing of it is stored. */

import { Retry } from "./backoff.js";
import type { Client } from "./client.js";
import type { Connection } from "./connection.js";
import { Emitter, Watched } from "./emitter.js";
import { isForbidden, RequestError } from "./errors.js";
import { held } from "./held.js";
import type { Clock } from "./platform.js";
import type { PresenceList, ServerEventFrame, ServerPresenceFrame } from "./protocol/server.gen.js";
import type { Joined, Rooms, Wanted } from "./rooms.js";

/** Who is in a room. */
export interface Presence<State = unknown> {
  /** How many users: exact, even where `members` is a sample. */
  users: number;
  members: ReadonlyMap<string, State>;
  /** Whether this client is in the room now. While it is not, the rest is what it last heard. */
  joined: boolean;
  /** Why it is not in the room, or why its state is not shown there. */
  problem?: { code: string; message: string };
}

interface Events<State> {
  joined: { user: string; state: State };
  left: { user: string };
  updated: { user: string; state: State };
  event: { event: string; data: unknown; from: string | undefined };
}

/** Nobody is here, as far as this client may know. */
const NOBODY = { users: 0, members: new Map<string, never>(), joined: false };
/** States a second that a hub takes which does not say. */
const PER_SECOND = 10;

/**
 * The states of one client's rooms on their way to the hub, which takes so many a second of a connection: of each room
 * the latest, in turn.
 */
class States {
  readonly #due = new Set<EphemeralRoom<never>>();
  readonly #retry: Retry;
  #sending = false;

  constructor(
    private readonly connection: Connection,
    private readonly clock: Clock,
  ) {
    this.#retry = new Retry(clock, () => void this.#send());
  }

  /** The state of a room is another. */
  changed(room: EphemeralRoom<never>): void {
    this.#due.add(room);
    void this.#send();
  }

  async #send(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    for (const room of this.#due) {
      if (this.#retry.waits) break;
      this.#due.delete(room);
      const sent = room.tellState();
      if (!sent) continue;
      sent.then(
        () => {
          this.#retry.worked();
          room.shown();
        },
        (error: unknown) => {
          // Who is in the room again says it again.
          if (!(error instanceof RequestError)) return;
          if (!error.retryable) return room.failed(error);
          this.#due.add(room);
          this.#retry.after(error);
        },
      );
      const { presence_per_second: rate = PER_SECOND } = (this.connection.hello?.limits ?? {}) as Record<string, number>;
      // A little slower, for what the network gathers and for two clocks.
      if (rate > 0) await new Promise<void>((resolve) => this.clock.after(Math.ceil(1100 / rate), resolve));
    }
    this.#sending = false;
  }
}

interface Known {
  readonly rooms: Map<string, EphemeralRoom<never>>;
  readonly states: States;
}

const known = new WeakMap<Client, Known>();

/** An ephemeral room of a project: the same object for the same room. */
export function room<State = unknown>(client: Client, project: string, name: string): EphemeralRoom<State> {
  const { clock, connection, rooms } = client.parts;
  let all = known.get(client);
  if (!all) {
    const mine = (all = { rooms: new Map(), states: new States(connection, clock) });
    known.set(client, mine);
    connection.events.on("frame", (frame) => {
      if (frame.type === "event" || frame.type === "presence") mine.rooms.get(frame.room)?.take(frame);
    });
  }
  const full = `room:${project}:${name}`;
  let one = all.rooms.get(full);
  if (!one) all.rooms.set(full, (one = new EphemeralRoom<never>(full, connection, rooms, all.states)));
  return one as unknown as EphemeralRoom<State>;
}

/** One ephemeral room. Made by `room`. */
export class EphemeralRoom<State = unknown> {
  readonly #events = new Emitter<Events<State>>();
  /** Who is here, to watch. */
  readonly presence = new Watched<Presence<State>>(NOBODY);
  #state: State | undefined;
  /** What is told while the room is asked for: the list in the answer may be older. */
  #told: ServerPresenceFrame[] | undefined;
  readonly #wanted: Wanted;

  constructor(
    readonly room: string,
    private readonly connection: Connection,
    private readonly rooms: Rooms,
    private readonly states: States,
  ) {
    this.#wanted = {
      room,
      ask: () => {
        this.#told = [];
        return { presence: true };
      },
      answered: (answer) => this.#answered(answer),
      told: () => this.#refused({ code: "forbidden", message: "access to the room was lost" }),
      lost: () => this.presence.set({ ...this.presence.get(), joined: false }),
    };
  }

  /** Enters the room, and again after every reconnect; the returned function leaves it, unless others are in it still. */
  readonly join: () => () => void = held(
    () => this.rooms.add(this.#wanted),
    () => {
      this.rooms.remove(this.room);
      this.presence.set(NOBODY);
    },
  );

  /** Hears who comes, goes and changes, and what is said. */
  on<Name extends keyof Events<State>>(name: Name, listener: (event: Events<State>[Name]) => void): () => void {
    return this.#events.on(name, listener);
  }

  /**
   * What others see of this user here; kept, and shown again after a reconnect. Call it as often as you like: it goes to
   * the hub as often as that allows, and the last one always arrives.
   */
  setState(state: State): void {
    JSON.stringify(state); // what cannot be told fails here, and not unheard later
    this.#state = state;
    this.states.changed(this as unknown as EphemeralRoom<never>);
  }

  /** @internal Sends the state of now; `undefined` if there is none, or nobody to see it. */
  tellState(): Promise<unknown> | undefined {
    const state = this.#state;
    if (state === undefined || !this.presence.get().joined) return undefined;
    return this.connection.ask({ type: "presence", room: this.room, state });
  }

  /** @internal The state is shown. */
  shown(): void {
    const { problem, ...presence } = this.presence.get();
    if (problem) this.presence.set(presence);
  }

  /** @internal The state is refused for good. */
  failed(problem: RequestError): void {
    this.presence.set({ ...this.presence.get(), problem });
  }

  /** Says something to who is here now. False if nobody can hear it, because there is no connection, or no access. */
  broadcast(event: string, data?: unknown): boolean {
    return !isForbidden(this.presence.get().problem) && this.connection.send({ type: "broadcast", room: this.room, event, data });
  }

  /** @internal Takes a frame of this room. */
  take(frame: ServerPresenceFrame | ServerEventFrame): void {
    if (frame.type === "event") {
      this.#events.emit("event", { event: frame.event, data: frame.data, from: frame.from });
      return;
    }
    this.#told?.push(frame);
    const members = new Map(this.presence.get().members);
    const { joined, problem } = this.presence.get();
    this.#show(members, put(members, frame), joined, problem);
  }

  #answered(answer: Joined): void {
    const told = this.#told ?? [];
    this.#told = undefined;
    if (answer.error) return this.#refused(answer.error);
    const list: PresenceList = answer.presence ?? { users: 0, members: [] };
    const members = new Map<string, State>();
    let users = put(members, list);
    for (const frame of told) users = put(members, frame);
    this.#show(members, users, true);
    if (this.#state !== undefined) this.setState(this.#state);
  }

  /** Who may not know who is here, does not. */
  #refused(problem: { code: string; message: string }): void {
    this.presence.set({ ...(isForbidden(problem) ? NOBODY : this.presence.get()), joined: false, problem });
  }

  /** Tells the differences: a reconnect is no leave and no join. */
  #show(members: Map<string, State>, users: number, joined: boolean, problem?: Presence["problem"]): void {
    const before = this.presence.get().members;
    this.presence.set({ users, members, joined, ...(problem && { problem }) });
    for (const user of before.keys()) if (!members.has(user)) this.#events.emit("left", { user });
    for (const [user, state] of members) {
      if (!before.has(user)) this.#events.emit("joined", { user, state });
      else if (JSON.stringify(before.get(user)) !== JSON.stringify(state)) this.#events.emit("updated", { user, state });
    }
  }
}

/** Puts what was told into `members`; returns how many users there are. */
function put<State>(members: Map<string, State>, told: PresenceList | ServerPresenceFrame): number {
  const { members: all, joined = [], updated = [], left = [] } = told as ServerPresenceFrame;
  // The whole list: something may have been missed, and what was known before is void.
  if (all) members.clear();
  for (const { user, state } of [...(all ?? []), ...joined, ...updated]) members.set(user, state as State);
  for (const user of left) members.delete(user);
  return told.users;
}
