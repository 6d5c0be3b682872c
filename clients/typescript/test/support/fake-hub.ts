/**
 * A hub in memory with a network that the test controls, for what a real one cannot be made to do at the right
 * moment. It speaks the protocol as far as these tests need: one log, no conflicts but those it is told.
 */

import { createHash } from "node:crypto";
import type { Fetch, FetchResponse, OpenSocket, Socket } from "../../src/platform.js";
import type { ClientFrame, Op, WriteFrame } from "../../src/protocol/client.gen.js";
import type { Conflict, ServerFrame, Verdict } from "../../src/protocol/server.gen.js";

/** Bucket and summand of an entity, as docs/PROTOCOL.md defines them. */
export function documentedSum(type: string, id: string, version: number): [bucket: number, adds: bigint] {
  const hash = (text: string) => createHash("sha256").update(text).digest();
  return [hash(`${type}:${id}`)[0]! >> 2, hash(`${type}:${id}:${version}`).readBigUInt64BE()];
}

export interface LogEntry {
  seq: number;
  type: string;
  id: string;
  kind: "create" | "update" | "delete";
  prev: number;
  fields: Record<string, unknown>;
  op_id: string;
}

interface State {
  version: number;
  deleted: boolean;
  fields: Record<string, unknown>;
}

export class FakeHub {
  readonly log: LogEntry[] = [];
  readonly entities = new Map<string, State>();
  readonly verdicts = new Map<string, Verdict>();
  readonly sockets: FakeSocket[] = [];
  /** What clients said, in order. */
  readonly heard: ClientFrame[] = [];
  /** HTTP requests, in order. */
  readonly requests: string[] = [];
  epoch = "00000000-0000-4000-8000-000000000001";
  /** Whose every token is. */
  user = "ana";
  online = true;
  /** Decides a token: a code refuses it. */
  check: (token: string) => string | undefined = () => undefined;
  /** Decides an operation instead of the hub. */
  decide: ((op: Op) => Partial<Verdict> | undefined) | undefined;
  /** Looks at what is sent to clients; false swallows it. */
  deliver: (frame: ServerFrame) => boolean = () => true;
  /** Answers a frame instead of the hub; `true` if it did. */
  instead: ((frame: ClientFrame, socket: FakeSocket) => boolean) | undefined;
  /** Refuses rooms, and paths over HTTP, with a code. */
  refuse: (what: string) => string | undefined = () => undefined;
  /** Types that the role does not read. */
  readonly unread = new Set<string>();
  /** Rows in a page of the delta. */
  pageRows = Infinity;
  /** Told with every answer that a role reads. */
  scope: string | undefined;
  pingInterval = 25;
  /** The user's open conflicts. */
  open: Conflict[] = [];
  limits: Record<string, number> = {};
  /** The user's failed lane: what is named waits in it. */
  readonly lane = new Map<string, { code: string }>();
  /** Operations on its first page. */
  laneRows = Infinity;

  readonly openSocket: OpenSocket = () => {
    const socket = new FakeSocket(this);
    this.sockets.push(socket);
    return socket;
  };

  readonly fetch = async (url: string, init: Parameters<Fetch>[1]): Promise<FetchResponse> => {
    if (!this.online) throw new TypeError("the network is down");
    const { pathname, searchParams } = new URL(url);
    this.requests.push(`${init.method} ${pathname}${new URL(url).search}`);
    const code = this.check(init.headers["authorization"]?.slice("Bearer ".length) ?? "");
    const named = init.headers["syncline-user"];
    const another = named !== undefined && decodeURIComponent(named) !== this.user;
    const refused = code
      ? { status: 401, body: { code, detail: `the token is refused: ${code}` } }
      : another && { status: 401, body: { code: "unauthorized", detail: "the token is another user's" } };
    const answer = refused || this.http(init.method, pathname, searchParams, init.body);
    return {
      ok: answer.status === 200,
      status: answer.status,
      headers: { get: () => null },
      text: async () => JSON.stringify(answer.body),
    };
  };

  get head(): number {
    return this.log.length;
  }

  /** Writes to the log as somebody else. */
  write(type: string, id: string, fields: Record<string, unknown> | null, opId = `other-${this.head + 1}`): LogEntry {
    const key = `${type}:${id}`;
    const state = this.entities.get(key) ?? { version: 0, deleted: false, fields: {} };
    const seq = this.head + 1;
    const kind = fields === null ? "delete" : state.version === 0 || state.deleted ? "create" : "update";
    const entry: LogEntry = { seq, type, id, kind, prev: state.version, fields: fields ?? {}, op_id: opId };
    this.log.push(entry);
    this.entities.set(key, {
      version: seq,
      deleted: fields === null,
      fields: fields === null ? {} : { ...(kind === "create" ? {} : state.fields), ...fields },
    });
    for (const socket of this.sockets) if (socket.following) socket.tell(this.change(entry));
    return entry;
  }

  /** Breaks all connections, as a lost network does. */
  cut(code = 1006, reason = ""): void {
    for (const socket of this.sockets.splice(0)) socket.closeFromHub(code, reason);
  }

  tell(frame: ServerFrame): void {
    for (const socket of this.sockets) socket.tell(frame);
  }

  take(socket: FakeSocket, frame: ClientFrame): void {
    this.heard.push(frame);
    if (this.instead?.(frame, socket)) return;
    const id = (frame as { id?: number }).id;
    switch (frame.type) {
      case "connect": {
        const code = this.check(frame.token ?? "");
        if (code) return socket.tell({ type: "error", id, code, message: `the token is refused: ${code}` } as ServerFrame);
        return socket.tell({
          type: "connected",
          id,
          session: "1",
          user: this.user,
          server_time: 0,
          ttl: 3600,
          ping_interval: this.pingInterval,
          projects: { p: { role: "editor" } },
          limits: this.limits,
        } as unknown as ServerFrame);
      }
      case "refresh":
        return socket.tell({ type: "refreshed", id, ttl: 3600 } as ServerFrame);
      case "presence":
        return socket.tell({ type: "ok", id } as ServerFrame);
      case "ping":
        return socket.tell({ type: "pong" } as ServerFrame);
      case "subscribe": {
        const joined = { seq: this.head, epoch: this.epoch, recovered: true, scope: this.scope };
        const rooms = frame.rooms.map(({ room }) => {
          const code = this.refuse(room);
          return { room, ...(code ? { error: { code, message: "no" } } : joined) };
        });
        socket.tell({ type: "subscribed", id, rooms } as unknown as ServerFrame);
        for (const { room, since } of frame.rooms) {
          if (!room.startsWith("project:") || this.refuse(room)) continue;
          socket.following = true;
          for (const entry of this.log.slice(since ?? this.head)) socket.tell(this.change(entry));
        }
        return;
      }
      case "write":
        return socket.tell({
          type: "written",
          id,
          project: frame.project ?? "p",
          verdicts: (frame as WriteFrame).ops.map((op) => this.apply(op)),
        } as ServerFrame);
      default:
        return;
    }
  }

  apply(op: Op): Verdict {
    const known = this.verdicts.get(op.op_id);
    if (known) return known;
    const decided = this.decide?.(op);
    const own = op.id.startsWith("local:") ? `id-${op.id.slice(6, 14)}` : op.id;
    const verdict: Verdict = { op_id: op.op_id, id: own, outcome: "applied", ...decided };
    if (own !== op.id) verdict.local_id = op.id;
    this.verdicts.set(op.op_id, verdict);
    if (verdict.outcome === "applied" || verdict.outcome === "merged") {
      const fields = op.kind === "delete" ? null : { ...op.fields, ...verdict.fields };
      verdict.seq = verdict.version = this.head + 1;
      this.write(op.type, own, fields, op.op_id);
    }
    return verdict;
  }

  change(entry: LogEntry): ServerFrame {
    const { seq, type, id, kind, prev, fields, op_id } = entry;
    const entity = { type, id };
    return { type: "change", project: "p", seq, entity, kind, version: seq, prev, fields, actor: "x", at: 0, op_id } as ServerFrame;
  }

  private states(query: URLSearchParams): (State & { type: string; id: string })[] {
    const [types, buckets] = ["types", "buckets"].map((name) => query.get(name)?.split(","));
    const all = [...this.entities].map(([key, state]) => ({ ...state, type: key.split(":")[0]!, id: key.split(":")[1]! }));
    return all
      .filter(({ type }) => !this.unread.has(type))
      .filter(({ type }) => !types || types.includes(type))
      .filter(({ type, id }) => !buckets || buckets.includes(String(documentedSum(type, id, 0)[0])));
  }

  private delta(query: URLSearchParams): unknown {
    const other = (name: string, own: string | undefined) => query.has(name) && query.get(name) !== own;
    const anew = other("epoch", this.epoch) ? "epoch_changed" : other("scope", this.scope) ? "scope_changed" : undefined;
    const since = anew ? 0 : Number(query.get("since"));
    const found = this.states(query).filter(({ version }) => version > since).sort((a, b) => a.version - b.version);
    const page = found.slice(0, this.pageRows);
    const more = page.length < found.length;
    return {
      changes: page.map(({ type, id, version, fields, deleted }) => ({ entity: { type, id }, version, fields, ...(deleted ? { deleted: true } : {}) })),
      next: more ? page.at(-1)!.version : this.head,
      more,
      epoch: this.epoch,
      scope: this.scope,
      ...(more ? { begun: Number(query.get("begun") ?? this.head) } : {}),
      ...(anew ? { resync: anew } : {}),
    };
  }

  private http(method: string, path: string, query: URLSearchParams, body?: string): { status: number; body: unknown } {
    const code = this.refuse(path);
    if (code) return { status: code === "forbidden" ? 403 : 503, body: { code, detail: "no" } };
    if (path.endsWith("/changes")) return { status: 200, body: this.delta(query) };
    if (path === "/v1/sync/failed") {
      const failed = [...this.lane].map(([op_id, { code }]) => ({ op_id, code })).slice(0, this.laneRows);
      return { status: 200, body: { failed } };
    }
    if (path === "/v1/sync/failed/clear") {
      const { op_ids } = JSON.parse(body ?? "{}") as { op_ids: string[] };
      return { status: 200, body: { cleared: op_ids.filter((opId) => this.lane.delete(opId)).length } };
    }
    if (path.endsWith("/conflicts")) return { status: 200, body: { conflicts: this.open } };
    if (path.endsWith("/checksum")) {
      const buckets = Array.from({ length: 64 }, () => ({ sum: 0n, count: 0 }));
      for (const { type, id, version, deleted } of this.states(query)) {
        if (deleted) continue;
        const [bucket, adds] = documentedSum(type, id, version);
        buckets[bucket]!.sum += adds;
        buckets[bucket]!.count++;
      }
      const told = buckets.map(({ sum, count }) => ({ sum: BigInt.asUintN(64, sum).toString(16).padStart(16, "0"), count }));
      return { status: 200, body: { head: this.head, epoch: this.epoch, scope: this.scope, buckets: told } };
    }
    if (method === "POST" && path.endsWith("/ops")) {
      const { ops } = JSON.parse(body ?? "{}") as { ops: Op[] };
      return { status: 200, body: { verdicts: ops.map((op) => this.apply(op)) } };
    }
    const [, type, id] = /entities\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
    const state = this.entities.get(`${type}:${id}`);
    return state ? { status: 200, body: state } : { status: 404, body: { code: "not_found", detail: "there is no such entity" } };
  }
}

export class FakeSocket implements Socket {
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  following = false;
  open = false;

  constructor(private readonly hub: FakeHub) {
    setImmediate(() => {
      if (!hub.online) return this.closeFromHub(1006, "");
      this.open = true;
      this.onopen?.();
    });
  }

  send(text: string): void {
    const frame = JSON.parse(text) as ClientFrame;
    setImmediate(() => this.open && this.hub.online && this.hub.take(this, frame));
  }

  tell(frame: ServerFrame): void {
    if (this.open && this.hub.online && this.hub.deliver(frame)) this.onmessage?.({ data: JSON.stringify(frame) });
  }

  close(code = 1000): void {
    this.open = false;
    this.hub.sockets.splice(this.hub.sockets.indexOf(this) >>> 0, 1);
    setImmediate(() => this.onclose?.({ code, reason: "" }));
  }

  closeFromHub(code: number, reason: string): void {
    this.open = false;
    this.onclose?.({ code, reason });
  }
}
