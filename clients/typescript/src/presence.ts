/** An ephemeral room: who is here, and what is said. Nothing of it is stored. */

import type { Client } from "./client.js";
import type { Connection } from "./connection.js";
import { Emitter, Watched } from "./emitter.js";
import { held } from "./held.js";
import type { Member, PresenceList, Refusal, ServerEventFrame, ServerPresenceFrame } from "./protocol/server.gen.js";
import type { Joined, Rooms, Wanted } from "./rooms.js";

/** Who is in a room. */
export interface Presence<State = unknown> {
  /** How many users: exact, even where `members` is a sample. */
  users: number;
  members: ReadonlyMap<string, State>;
  /** Whether this client is in the room now. While it is not, the rest is what it last heard. */
  joined: boolean;
  problem?: Refusal;
}

interface Events<State> {
  joined: { user: string; state: State };
  left: { user: string };
  updated: { user: string; state: State };
  event: { event: string; data: unknown; from: string | undefined };
}

const known = new WeakMap<Client, Map<string, EphemeralRoom<never>>>();

/** An ephemeral room of a project: the same object for the same room. */
export function room<State = unknown>(client: Client, project: string, name: string): EphemeralRoom<State> {
  const { connection, rooms } = client.parts;
  let all = known.get(client);
  if (!all) {
    const mine = (all = new Map<string, EphemeralRoom<never>>());
    known.set(client, mine);
    connection.events.on("frame", (frame) => {
      if (frame.type === "event" || frame.type === "presence") mine.get(frame.room)?.take(frame);
    });
  }
  const full = `room:${project}:${name}`;
  let one = all.get(full);
  if (!one) all.set(full, (one = new EphemeralRoom<never>(full, connection, rooms)));
  return one as unknown as EphemeralRoom<State>;
}

/** One ephemeral room. Made by `room`. */
export class EphemeralRoom<State = unknown> {
  readonly #events = new Emitter<Events<State>>();
  /** Who is here, to watch. */
  readonly presence = new Watched<Presence<State>>({ users: 0, members: new Map(), joined: false });
  #state: State | undefined;
  readonly #wanted: Wanted;

  constructor(
    readonly room: string,
    private readonly connection: Connection,
    private readonly rooms: Rooms,
  ) {
    this.#wanted = {
      room,
      ask: () => ({ presence: true }),
      answered: (answer) => this.#answered(answer),
      lost: () => this.presence.set({ ...this.presence.get(), joined: false }),
    };
  }

  /** Enters the room, and again after every reconnect; the returned function leaves it, unless others are in it still. */
  readonly join: () => () => void = held(
    () => this.rooms.add(this.#wanted),
    () => {
      this.rooms.remove(this.room);
      this.presence.set({ users: 0, members: new Map(), joined: false });
    },
  );

  /** Hears who comes, goes and changes, and what is said. */
  on<Name extends keyof Events<State>>(name: Name, listener: (event: Events<State>[Name]) => void): () => void {
    return this.#events.on(name, listener);
  }

  /** What others see of this user here; kept, and shown again after a reconnect. */
  setState(state: State): void {
    this.#state = state;
    if (this.presence.get().joined) this.connection.send({ type: "presence", room: this.room, state });
  }

  /** Says something to who is here now. False if nobody can hear it, because there is no connection. */
  broadcast(event: string, data?: unknown): boolean {
    return this.connection.send({ type: "broadcast", room: this.room, event, data });
  }

  /** @internal Takes a frame of this room. */
  take(frame: ServerPresenceFrame | ServerEventFrame): void {
    if (frame.type === "event") {
      this.#events.emit("event", { event: frame.event, data: frame.data, from: frame.from });
      return;
    }
    // The whole list: something may have been missed, and what was known before is void.
    const members = new Map(frame.members ? [] : this.presence.get().members);
    for (const { user, state } of frame.members ?? [...(frame.joined ?? []), ...(frame.updated ?? [])]) members.set(user, state as State);
    for (const user of frame.left ?? []) members.delete(user);
    this.#show(members, frame.users, this.presence.get().joined);
  }

  #answered(answer: Joined): void {
    if (answer.error) {
      this.presence.set({ ...this.presence.get(), joined: false, problem: answer.error });
      return;
    }
    const list: PresenceList = answer.presence ?? { users: 0, members: [] };
    const members = new Map(list.members.map(({ user, state }: Member) => [user, state as State]));
    this.#show(members, list.users, true);
    if (this.#state !== undefined) this.setState(this.#state);
  }

  /** Tells the differences: a reconnect is no leave and no join. */
  #show(members: Map<string, State>, users: number, joined: boolean): void {
    const before = this.presence.get().members;
    this.presence.set({ users, members, joined });
    for (const user of before.keys()) if (!members.has(user)) this.#events.emit("left", { user });
    for (const [user, state] of members) {
      if (!before.has(user)) this.#events.emit("joined", { user, state });
      else if (JSON.stringify(before.get(user)) !== JSON.stringify(state)) this.#events.emit("updated", { user, state });
    }
  }
}
