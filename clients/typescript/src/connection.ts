/**
 * One connection to the hub, kept alive: connect, authenticate, ask, and come back after every kind of loss.
 * It knows frames, but no rooms and no rows; `client.ts` gives it those.
 */

import { afterClose, CONNECT, CROWDED, wait, type Backoff } from "./backoff.js";
import { Emitter, Watched } from "./emitter.js";
import { AuthError, ClosedError, DisconnectedError, RequestError, SynclineError } from "./errors.js";
import type { Clock, Hint, OpenSocket, Socket } from "./platform.js";
import type { ClientFrame } from "./protocol/client.gen.js";
import type { Refusal, ServerConnectedFrame, ServerFrame, ServerRefreshedFrame } from "./protocol/server.gen.js";
import type { TokenKeeper } from "./token.js";

/** Where the connection is. `refused` is final until `connect` is called again. */
export type ConnectionState = "idle" | "connecting" | "online" | "waiting" | "refused";

/** What a connection needs. */
export interface ConnectionOptions {
  url: string;
  tokens: TokenKeeper;
  clock: Clock;
  openSocket: OpenSocket;
  /** The installation. */
  clientId: string;
  /** Told to the hub for diagnostics. */
  device?: Record<string, unknown> | undefined;
  backoff?: Backoff | undefined;
  /** Looks at whose session it is, before anything is sent in it. */
  greet(hello: ServerConnectedFrame): Promise<void>;
}

interface Events {
  /** The session is open; subscribe again. */
  open: ServerConnectedFrame;
  /** A frame that answers no request. */
  frame: ServerFrame;
  /** The session is over. */
  lost: undefined;
}

/** How long an answer, an opening and a sign of life may take. */
const ANSWER_MS = 30_000;
const OPEN_MS = 15_000;
const ALIVE_MS = 10_000;
/** The same after a hint that the network or the app changed: a phone in the hand waits for nothing. */
const PROBE_MS = 4000;
/** A connection that lived this long was a good one: the next failure begins the back-off anew. */
const STABLE_MS = 10_000;
/** Hints come in flocks. */
const HINT_MS = 1000;

interface Waiting {
  resolve(frame: ServerFrame): void;
  reject(error: Error): void;
  stop(): void;
}

/** Frames without the `id`, which the connection gives. */
export type Ask = ClientFrame extends infer F ? (F extends ClientFrame ? Omit<F, "id"> : never) : never;

/** Keeps one WebSocket. */
export class Connection {
  readonly events = new Emitter<Events>();
  readonly state = new Watched<ConnectionState>("idle");
  /** Why it is `refused` or `waiting`. */
  problem: SynclineError | undefined;
  /** What the hub said when the session began. */
  hello: ServerConnectedFrame | undefined;

  #socket: Socket | undefined;
  #pending = new Map<number, Waiting>();
  #lastId = 0;
  #attempts = 0;
  #lastAttempt = 0;
  /** Frames heard. Counted, not timed: a clock may be set back. */
  #heard = 0;
  /** Until when the hub asked not to come back, and how long that was: a clock may be set back. */
  #pacedUntil = 0;
  #paceMs = 0;
  #active = true;
  #connecting: { promise: Promise<void>; resolve(): void; reject(error: Error): void } | undefined;
  #stopTimers: (() => void)[] = [];
  #stopRetry: (() => void) | undefined;
  #generation = 0;

  constructor(private readonly options: ConnectionOptions) {}

  /** Connects, and stays connected. The same promise for everyone who asks; it fails only for good. */
  connect(): Promise<void> {
    if (this.state.get() === "online") return Promise.resolve();
    if (!this.#connecting) {
      let resolve!: () => void;
      let reject!: (error: Error) => void;
      const promise = new Promise<void>((yes, no) => ((resolve = yes), (reject = no)));
      promise.catch(() => {});
      this.#connecting = { promise, resolve, reject };
    }
    const { promise } = this.#connecting;
    if (this.state.get() === "idle" || this.state.get() === "refused") void this.#attempt();
    return promise;
  }

  /** Closes, and stays closed until `connect`. */
  disconnect(): void {
    this.#generation++;
    this.#stopRetry?.();
    this.#drop(1000);
    this.#connecting?.reject(new DisconnectedError("the app disconnected"));
    this.#connecting = undefined;
    this.state.set("idle");
  }

  /** Sends a frame that wants no answer; false if there is no session. */
  send(frame: Ask): boolean {
    if (this.state.get() !== "online" || !this.#socket) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Asks something and waits for the answer. */
  ask(frame: Ask): Promise<ServerFrame> {
    return this.askText((id) => JSON.stringify({ ...frame, id }));
  }

  /** The same for a frame whose text must not change on its way. */
  askText(text: (id: number) => string): Promise<ServerFrame> {
    if (this.state.get() !== "online") return Promise.reject(new DisconnectedError());
    return this.#transmit(text);
  }

  /** Takes a hint: it may make the next attempt or probe come sooner, and nothing else. */
  hint(hint: Hint): void {
    if (hint === "foreground" || hint === "background") {
      const active = hint === "foreground";
      if (active !== this.#active) this.send({ type: "ack", active });
      this.#active = active;
      if (!active) return;
    }
    const now = this.options.clock.now();
    if (this.state.get() === "online") this.#probe();
    else if (this.state.get() === "waiting" && now >= this.#pacedUntil && now - this.#lastAttempt >= HINT_MS) {
      this.#stopRetry?.();
      void this.#attempt();
    }
  }

  async #attempt(): Promise<void> {
    const generation = ++this.#generation;
    this.#lastAttempt = this.options.clock.now();
    this.#pacedUntil = 0;
    this.problem = undefined;
    this.state.set("connecting");
    try {
      const hello = await this.options.tokens.use(async (token) => {
        if (generation !== this.#generation) throw new DisconnectedError();
        // Refused in the session's first breath: another token may still be shown on this socket.
        if (!this.#socket) await this.#open(generation);
        return this.#transmit((id) => {
          const { clientId: client, device } = this.options;
          return JSON.stringify({ type: "connect", id, token, client, active: this.#active, device });
        });
      });
      await this.options.greet(hello as ServerConnectedFrame);
      if (generation === this.#generation) this.#opened(hello as ServerConnectedFrame);
    } catch (error) {
      if (generation !== this.#generation) return;
      this.#failed(error instanceof SynclineError ? error : new SynclineError(String(error)));
    }
  }

  #open(generation: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const { openSocket, clock, clientId, url } = this.options;
      const socket = openSocket(`${url}?client=${clientId}`, ["syncline.v1"]);
      this.#socket = socket;
      const stop = clock.after(OPEN_MS, () => {
        this.#drop(1000);
        reject(new DisconnectedError("the hub does not answer"));
      });
      this.#stopTimers.push(stop);
      socket.onopen = () => {
        stop();
        resolve();
      };
      socket.onerror = () => {};
      socket.onmessage = ({ data }) => generation === this.#generation && this.#hear(String(data));
      socket.onclose = ({ code, reason }) => {
        reject(new DisconnectedError());
        if (socket === this.#socket) this.#closed(code, reason);
      };
    });
  }

  #opened(hello: ServerConnectedFrame): void {
    this.hello = hello;
    this.options.tokens.accepted(hello.ttl);
    this.#after(STABLE_MS, () => (this.#attempts = 0));
    this.#watch(hello.ping_interval * 1000);
    this.state.set("online");
    this.events.emit("open", hello);
    this.#connecting?.resolve();
    this.#connecting = undefined;
  }

  /** A browser shows no pings: silence is broken by asking. */
  #watch(interval: number): void {
    let known = this.#heard;
    const look = () => {
      const silent = this.#heard === known;
      if (silent) this.#probe(ALIVE_MS);
      // The answer to that is no other sign of life.
      known = this.#heard + Number(silent);
      this.#after(interval, look);
    };
    this.#after(interval, look);
  }

  #probe(within = PROBE_MS): void {
    const heard = this.#heard;
    this.#socket?.send(JSON.stringify({ type: "ping" }));
    this.#after(within, () => {
      if (this.#heard !== heard) return;
      this.#drop(1000);
      this.#closed(1006, "nothing was heard");
    });
  }

  /** Runs something later, unless the socket is gone by then. */
  #after(ms: number, run: () => void): void {
    this.#stopTimers.push(this.options.clock.after(ms, run));
  }

  #hear(text: string): void {
    this.#heard++;
    let frame: ServerFrame;
    try {
      frame = JSON.parse(text) as ServerFrame;
    } catch {
      return;
    }
    const id = (frame as { id?: unknown }).id;
    const waiting = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (waiting) {
      this.#pending.delete(id as number);
      waiting.stop();
      if (frame.type === "error") waiting.reject(refusal(frame));
      else waiting.resolve(frame);
      return;
    }
    if (frame.type === "token_expiring") void this.#refresh();
    else if (frame.type === "goodbye") {
      this.#paceMs = frame.reconnect_in_ms;
      this.#pacedUntil = this.options.clock.now() + this.#paceMs;
    }
    this.events.emit("frame", frame);
  }

  async #refresh(): Promise<void> {
    const { tokens } = this.options;
    const generation = this.#generation;
    try {
      const token = await tokens.renew("expired");
      if (generation !== this.#generation) return;
      const { ttl } = (await this.ask({ type: "refresh", token })) as ServerRefreshedFrame;
      tokens.accepted(ttl);
    } catch (error) {
      // What is only a bad moment is tried again when the hub closes with 4100.
      if (error instanceof AuthError && generation === this.#generation) this.#failed(error);
    }
  }

  #transmit(text: (id: number) => string): Promise<ServerFrame> {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const stop = this.options.clock.after(ANSWER_MS, () => {
        this.#pending.delete(id);
        // The connection may be well all the same. The fate is unknown: who asked asks again, and an answer that comes
        // later is a frame like any other.
        reject(new RequestError("timeout", "the hub does not answer"));
        this.#probe();
      });
      this.#pending.set(id, { resolve, reject, stop });
      this.#socket?.send(text(id));
    });
  }

  #closed(code: number, reason: string): void {
    this.#drop();
    this.#generation++;
    const what = afterClose(code);
    if (what === "stop") return this.#failed(new ClosedError(code, reason));
    if (what === "refresh" || what === "login") {
      const known = this.options.tokens.doubt(code === 4101 || what === "login" ? "revoked" : "expired");
      if (!known || what === "login") return this.#failed(new AuthError(`the hub does not trust the token: ${reason}`));
    }
    this.#failed(new DisconnectedError(`the connection was closed: ${code} ${reason}`), what === "later" ? CROWDED : undefined);
  }

  #failed(error: SynclineError, backoff = this.options.backoff ?? CONNECT): void {
    this.#drop(1000);
    this.problem = error;
    if (error instanceof AuthError || error instanceof ClosedError) {
      this.#generation++;
      this.#connecting?.reject(error);
      this.#connecting = undefined;
      this.state.set("refused");
      return;
    }
    const { clock } = this.options;
    const now = clock.now();
    const paced = Math.min(this.#pacedUntil - now, this.#paceMs);
    const ms = paced > 0 ? paced : wait(backoff, this.#attempts++, clock.random());
    this.#stopRetry = clock.after(ms, () => void this.#attempt());
    // Before the listeners hear of it: one of them may call `connect`.
    if (!this.#connecting) void this.connect().catch(() => {});
    this.state.set("waiting");
  }

  /** Lets go of the socket and of everything that waits for it. */
  #drop(code?: number): void {
    const socket = this.#socket;
    const was = this.hello;
    this.#socket = undefined;
    this.hello = undefined;
    for (const stop of this.#stopTimers.splice(0)) stop();
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      if (code !== undefined) {
        try {
          socket.close(code);
        } catch {
          // It was not open yet; letting go is enough.
        }
      }
    }
    for (const waiting of this.#pending.values()) {
      waiting.stop();
      waiting.reject(new DisconnectedError());
    }
    this.#pending.clear();
    if (was) this.events.emit("lost", undefined);
  }
}

/** A refusal as the hub tells it, as an error. */
export const refusal = ({ code, message, retry_after_ms, detail }: Refusal): RequestError =>
  new RequestError(code, message, retry_after_ms, detail);
