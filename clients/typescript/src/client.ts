/** The client: one connection, one store, any number of projects and rooms. */

import type { Backoff } from "./backoff.js";
import { askConflicts, saveConflict } from "./conflicts.js";
import { Connection, type ConnectionState } from "./connection.js";
import { Emitter, Watched } from "./emitter.js";
import type { StorageError, SynclineError } from "./errors.js";
import { Http } from "./http.js";
import { askRejected, clearDiscarded } from "./lane.js";
import { Outbox, type SendLimits, type SendOps, type Way } from "./outbox.js";
import {
  browserHints,
  type Clock,
  type Fetch,
  globalFetch,
  globalSocket,
  type Hint,
  type HintSource,
  type OpenSocket,
  systemClock,
} from "./platform.js";
import { Project } from "./project.js";
import type { ServerFrame, ServerNotificationFrame, Verdict } from "./protocol/server.gen.js";
import { Replica } from "./replica.js";
import { Rooms } from "./rooms.js";
import { MemoryStorage } from "./storage/memory.js";
import type { Storage } from "./storage/storage.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import type { SyncResult } from "./sync.js";
import { type GetToken, TokenKeeper } from "./token.js";
import { uuid } from "./uuid.js";

/** What a client is made with. */
export interface ClientOptions {
  /** The hub, e.g. `https://hub.example.org`. */
  url: string;
  /** Fetches the user's token. */
  getToken: GetToken;
  /**
   * Who is logged in, as the hub calls them: the subject of their token. A store belongs to the first user it met: if
   * that was another, `createClient` fails with a `WrongUserError` before anything of it is shown.
   */
  user: string;
  /** Where data is kept; without one it lasts as long as the process. One store serves one client, and one user. */
  storage?: Storage | Promise<Storage>;
  /** What is said of the device, for diagnostics. */
  device?: Record<string, unknown>;
  /** What is said of app and network; by default what a browser says. */
  hints?: HintSource;
  /** Bytes of rows kept in memory. */
  memoryBytes?: number;
  /** How long to wait between attempts to connect. */
  backoff?: Backoff;
  /** Instead of the system's, for tests. */
  clock?: Clock;
  /** Instead of the global `WebSocket`, for instance in Node 20, which has none. */
  openSocket?: OpenSocket;
  /** Instead of the global `fetch`. */
  fetch?: Fetch;
}

/** What an app shows of the state of things. The same object as long as nothing changes. */
export interface Status {
  /** Where the connection is. */
  connection: ConnectionState;
  /** Whose data it is; nobody's once a session was another's. */
  user: string | undefined;
  /** Operations that wait for the hub. */
  pending: number;
  /** Operations that failed and wait for the user. */
  failed: number;
  /** Conflicts that wait for the user. */
  conflicts: number;
  /** Why there is no connection. */
  problem: SynclineError | undefined;
  /** The last trouble with the device's store. */
  storage: StorageError | undefined;
}

interface Events {
  /** The user is notified of something. */
  notification: ServerNotificationFrame;
  /** The user's role in projects is another; `null` is out. */
  access: Record<string, { role: string } | null>;
  /** A `syncNow` ended. */
  synced: SyncResult;
}

/** @internal What the client's own files share. */
export interface Parts {
  store: Store;
  http: Http;
  clock: Clock;
  rooms: Rooms;
  connection: Connection;
  limits(of: "frame_bytes" | "body_bytes"): SendLimits;
  synced(result: SyncResult): void;
}

/** Opens the device's store and makes a client; `connect` it when the user is there. */
export async function createClient(options: ClientOptions): Promise<Client> {
  const store = new Store(await (options.storage ?? new MemoryStorage()), options.memoryBytes);
  const clock = options.clock ?? systemClock;
  store.user = await store.get<string>("meta", "user");
  await store.claim(options.user);
  let clientId = await store.get<string>("meta", "client");
  if (clientId === undefined) {
    clientId = uuid(clock);
    await store.commit([{ table: "meta", key: "client", value: clientId }]);
  }
  const shown = (await store.get<string[]>("meta", "shown")) ?? [];
  const client = new Client(options, store, clock, clientId, new Set(shown));
  // What waits from the last time is to be sent even if nobody opens its project.
  for (const name of await store.waiting()) await client.project(name);
  return client;
}

/** What a request may hold until the hub has told its own limits. */
const LIMITS = { ops_per_write: 500, frame_bytes: 1 << 20, op_bytes: 1 << 18, body_bytes: 4 << 20 };
/** Operations in one request: enough to be fast, few enough that one lost answer costs little. */
const OPS = 200;

/** Notifications remembered, so that none is shown twice: on a device, a push and a frame are never so far apart. */
const SHOWN = 200;

/** A connection to a hub, and what it brought. Made by `createClient`. */
export class Client {
  /** State of things, to watch. */
  readonly status: Watched<Status>;
  /** @internal */ readonly parts: Parts;
  readonly #events = new Emitter<Events>();
  readonly #connection: Connection;
  readonly #rooms: Rooms;
  readonly #opened = new Map<string, Promise<Project>>();
  readonly #projects = new Map<string, Project>();
  readonly #stopHints: () => void;
  #storageProblem: StorageError | undefined;

  /** @internal */
  constructor(
    options: ClientOptions,
    store: Store,
    clock: Clock,
    readonly clientId: string,
    private readonly shown: Set<string>,
  ) {
    const base = options.url.replace(/\/+$/, "").replace(/^ws/, "http");
    const tokens = new TokenKeeper(options.getToken, clock);
    const http = new Http(base, options.fetch ?? globalFetch, tokens, clock, store);
    const { device, backoff, openSocket = globalSocket } = options;
    const url = `${base.replace(/^http/, "ws")}/v1/ws`;
    this.#connection = new Connection({
      url,
      tokens,
      clock,
      openSocket,
      clientId,
      device,
      backoff,
      greet: ({ user }) => store.claim(user),
    });
    this.#rooms = new Rooms(this.#connection, clock);
    this.parts = {
      store,
      http,
      clock,
      rooms: this.#rooms,
      connection: this.#connection,
      limits: (of) => this.#limits(of),
      synced: (result) => this.#events.emit("synced", result),
    };
    this.status = new Watched(this.#look());
    this.#connection.events.on("open", () => {
      for (const project of this.#projects.values()) this.#greet(project);
      this.#refresh();
    });
    this.#connection.events.on("frame", (frame) => this.#take(frame));
    this.#connection.state.subscribe(() => this.#refresh());
    store.events.on("failed", (error) => {
      this.#storageProblem = error;
      this.#refresh();
    });
    this.#stopHints = (options.hints ?? browserHints)((hint) => this.hint(hint));
  }

  /** Connects and stays connected; resolves with the first session, fails only for good. */
  connect(): Promise<void> {
    return this.#connection.connect();
  }

  /** Closes the connection. Edits go on into the outbox. */
  disconnect(): void {
    this.#connection.disconnect();
  }

  /** Ends the client: disconnects and lets go of the store. */
  async close(): Promise<void> {
    this.#stopHints();
    this.disconnect();
    for (const project of this.#projects.values()) {
      project.stream.stop();
      project.outbox.stop();
    }
    await this.parts.store.close();
  }

  /** Passes on what the app knows of itself or of the network, beside what `hints` says. */
  hint(hint: Hint): void {
    this.#connection.hint(hint);
  }

  /** A project, from what the device has of it. */
  project(name: string): Promise<Project> {
    let opened = this.#opened.get(name);
    if (!opened) {
      opened = this.#openProject(name);
      this.#opened.set(name, opened);
      opened.catch(() => this.#opened.delete(name));
    }
    return opened;
  }

  /** Hears notifications (each once), changed roles, and results of `syncNow`. */
  on<Name extends keyof Events>(name: Name, listener: (event: Events[Name]) => void): () => void {
    return this.#events.on(name, listener);
  }

  async #openProject(name: string): Promise<Project> {
    const { store, http, clock } = this.parts;
    const replica = new Replica(name, store, clock);
    await replica.load();
    const outbox = new Outbox(replica);
    const stream = new Stream(replica, this.#connection, this.#rooms, http);
    const project = new Project(name, replica, outbox, stream, this.#rooms, http);
    outbox.via = () => this.#socketWay(name);
    replica.events.on("ops", () => this.#refresh());
    replica.conflicts.subscribe(() => this.#refresh());
    this.#projects.set(name, project);
    this.#refresh();
    if (this.#connection.hello) this.#greet(project);
    return project;
  }

  /** What a session is for, in a project. */
  #greet(project: Project): void {
    const { outbox, stream } = project;
    outbox.take([]);
    outbox.kick();
    // What was stored without a session.
    stream.ack();
    // What happened elsewhere meanwhile, and here; what is broken off, the next session does.
    for (const exchange of [askConflicts, askRejected, clearDiscarded]) exchange(project).catch(() => {});
  }

  #socketWay(project: string): ReturnType<Way> {
    if (this.#connection.state.get() !== "online") return undefined;
    const send: SendOps = async (ops, checksum, sentAt) => {
      const answer = await this.#connection.askText(
        (id) =>
          `{"type":"write","id":${id},"project":${JSON.stringify(project)},"sent_at":${sentAt},"checksum":"${checksum}","ops":${ops}}`,
      );
      return (answer as { verdicts: Verdict[] }).verdicts;
    };
    return { send, limits: this.#limits("frame_bytes") };
  }

  #limits(of: "frame_bytes" | "body_bytes"): SendLimits {
    const told: Record<string, number> = { ...LIMITS, ...this.#connection.hello?.limits };
    return { ops: Math.min(OPS, told["ops_per_write"]!), bytes: told[of]! * 0.9, opBytes: told["op_bytes"]! };
  }

  #take(frame: ServerFrame): void {
    const project = this.#projects.get((frame as { project?: string }).project!);
    switch (frame.type) {
      case "change":
        if (!project?.stream.following) project?.takeAlone(frame);
      // fallthrough
      case "advance":
        project?.stream.take(frame);
        break;
      case "written":
        project?.outbox.take(frame.verdicts);
        break;
      case "verdict":
        project?.outbox.take([frame.verdict]);
        break;
      case "notification":
        // Once each, also if it came as a push.
        if (this.firstTime(frame.nid)) this.#events.emit("notification", frame);
        break;
      case "conflict":
        void project?.replica.transact((change) => saveConflict(change, frame.conflict));
        break;
      case "access":
        for (const [name, grant] of Object.entries(frame.projects)) if (grant) this.#rooms.rejoin(name);
        this.#events.emit("access", frame.projects);
    }
  }

  /** @internal Whether a notification was not shown yet; from now on it was. */
  firstTime(nid: string): boolean {
    if (this.shown.has(nid)) return false;
    this.shown.add(nid);
    if (this.shown.size > SHOWN) this.shown.delete([...this.shown][0]!);
    // A store that fails says so in `status`; at worst something is shown twice.
    this.parts.store.commit([{ table: "meta", key: "shown", value: [...this.shown] }]).catch(() => {});
    return true;
  }

  #refresh(): void {
    const next = this.#look();
    const now = this.status.get();
    const same = (Object.keys(next) as (keyof Status)[]).every((name) => next[name] === now[name]);
    if (!same) this.status.set(next);
  }

  #look(): Status {
    const projects = [...this.#projects.values()];
    const sum = (count: (project: Project) => number) => projects.reduce((total, project) => total + count(project), 0);
    return {
      connection: this.#connection.state.get(),
      user: this.parts.store.user,
      pending: sum(({ outbox }) => outbox.pending.length),
      failed: sum(({ outbox }) => outbox.failed.length),
      conflicts: sum(({ replica }) => [...replica.conflicts.get().values()].filter(({ state }) => state === "open").length),
      problem: this.#connection.problem,
      storage: this.#storageProblem,
    };
  }
}
