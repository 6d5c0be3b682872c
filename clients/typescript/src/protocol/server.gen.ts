/* Made by `npm run types` from schema/server.json. Do not edit. */

/**
 * Everything the hub can say.
 */
export type ServerFrame =
  | ServerConnectedFrame
  | ServerRefreshedFrame
  | ServerSubscribedFrame
  | ServerUnsubscribedFrame
  | ServerWrittenFrame
  | ServerOkFrame
  | ServerChangeFrame
  | ServerAdvanceFrame
  | ServerEventFrame
  | ServerPresenceFrame
  | ServerNotificationFrame
  | ServerConflictFrame
  | ServerVerdictFrame
  | ServerResyncFrame
  | ServerGoneFrame
  | ServerAccessFrame
  | ServerTokenExpiringFrame
  | ServerGoodbyeFrame
  | ServerPongFrame
  | ServerErrorFrame;
/**
 * 1 to 32 letters, digits, `_` or `-`
 */
export type RoleName = string;
/**
 * 1 to 128 printable characters without `:`
 */
export type UserId = string;
/**
 * The answer for one room of a `subscribe`.
 */
export type Subscribed = Subscribed1 & {
  /**
   * The room as the client named it.
   */
  room: string;
};
export type Subscribed1 =
  | {
      /**
       * The sequence `seq` belongs to.
       */
      epoch?: string;
      presence?: PresenceList;
      /**
       * Whether everything after `since` is sent; false if there was no `since`.
       */
      recovered: boolean;
      /**
       * Why the cursor cannot be resumed; the room is joined from `seq` on, fetch its state anew.
       */
      resync?: "cursor_too_old" | "epoch_changed" | "scope_changed";
      /**
       * What the role may read, as an opaque text: to be stored with the cursor. Absent for rooms that
       * hold no log.
       */
      scope?: string;
      /**
       * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
       */
      seq?: number;
    }
  | {
      /**
       * Why.
       */
      error: Refusal;
    };
export type ErrorCode =
  | "bad_request"
  | "unknown_type"
  | "invalid_name"
  | "unauthorized"
  | "token_expired"
  | "token_revoked"
  | "forbidden"
  | "not_found"
  | "not_subscribed"
  | "checksum_mismatch"
  | "limit_exceeded"
  | "rate_limited"
  | "overloaded"
  | "unavailable"
  | "internal";
/**
 * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
 */
export type Seq = number;
/**
 * How an operation names its entity.
 */
export type EntityRef = EntityId | LocalId;
/**
 * 1 to 128 printable characters without `:`
 */
export type EntityId = string;
/**
 * `local:`, then 1 to 120 printable characters without `:`
 */
export type LocalId = string;
/**
 * 1 to 128 printable characters without `:`
 */
export type OpId = string;
/**
 * What became of an operation. Terminal: the same `op_id` gets the same verdict for ever.
 */
export type Outcome = "applied" | "merged" | "noop" | "superseded" | "conflict" | "rejected";
/**
 * a lower-case letter, then up to 63 lower-case letters, digits or `_`
 */
export type EntityType = string;
/**
 * What a change does to its entity.
 */
export type ChangeKind = "create" | "update" | "delete";
/**
 * 1 to 64 letters, digits, `_` or `-`
 */
export type ProjectId = string;
/**
 * `project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`
 */
export type Room = string;
/**
 * How urgent a notification is.
 */
export type Lane = "critical" | "high" | "normal";
/**
 * Who prevails where two sides changed the same.
 */
export type Strategy = "client_wins" | "server_wins" | "merge" | "last_write_wins" | "manual";
/**
 * An entry of the conflict log: a UUIDv7, so entries sort by time.
 */
export type ConflictId = string;
/**
 * What two sides did to the same entity.
 */
export type ConflictKind = "fields" | "exists" | "deleted" | "changed" | "overruled";
/**
 * What an operation asks for.
 */
export type OpKind = "create" | "update" | "delete" | "resolve";
/**
 * Whether a conflict is decided.
 */
export type ConflictState = "open" | "resolved" | "closed";

/**
 * The session is open.
 */
export interface ServerConnectedFrame {
  type: "connected";
  /**
   * The request answered, if the client sent `connect`.
   */
  id?: number | string;
  /**
   * The limits in force for this connection, from the configuration.
   */
  limits: {
    [k: string]: number;
  };
  /**
   * Seconds between the server's pings.
   */
  ping_interval: number;
  /**
   * The projects the token grants.
   */
  projects: {
    [k: string]: ProjectGrant;
  };
  /**
   * Milliseconds since the Unix epoch.
   */
  server_time: number;
  /**
   * This session's id, for logs and support.
   */
  session: string;
  /**
   * Seconds until the token expires.
   */
  ttl: number;
  /**
   * Whom the token names.
   */
  user: UserId;
}
/**
 * What the token grants in one project.
 */
export interface ProjectGrant {
  /**
   * The role.
   */
  role: RoleName;
}
/**
 * The new token is in force.
 */
export interface ServerRefreshedFrame {
  /**
   * The request answered.
   */
  id?: number | string;
  /**
   * Seconds until the new token expires.
   */
  ttl: number;
  type: "refreshed";
}
/**
 * One answer per room of a `subscribe`, in its order.
 */
export interface ServerSubscribedFrame {
  /**
   * The request answered.
   */
  id?: number | string;
  /**
   * The answers.
   */
  rooms: Subscribed[];
  type: "subscribed";
}
/**
 * Who is here, if presence was asked for.
 */
export interface PresenceList {
  /**
   * The members; only a sample in a room larger than `limits.presence_members`.
   */
  members: Member[];
  /**
   * How many users.
   */
  users: number;
}
/**
 * One user in a room, on one or more connections.
 */
export interface Member {
  /**
   * The latest state one of their connections set.
   */
  state: unknown;
  /**
   * The user.
   */
  user: UserId;
}
/**
 * A refusal: a code, a plain sentence, and what a program needs besides.
 */
export interface Refusal {
  /**
   * What kind of refusal.
   */
  code: ErrorCode;
  /**
   * More for programs, by code.
   */
  detail?: unknown;
  /**
   * A sentence that says what to do.
   */
  message: string;
  /**
   * Milliseconds to wait before trying again.
   */
  retry_after_ms?: number;
}
/**
 * The rooms were left.
 */
export interface ServerUnsubscribedFrame {
  /**
   * The request answered.
   */
  id?: number | string;
  type: "unsubscribed";
}
/**
 * Verdicts in the order of the operations.
 */
export interface ServerWrittenFrame {
  /**
   * The request answered.
   */
  id?: number | string;
  /**
   * 1 to 64 letters, digits, `_` or `-`
   */
  project: string;
  type: "written";
  /**
   * One verdict per operation.
   */
  verdicts: Verdict[];
}
/**
 * The answer to one operation.
 */
export interface Verdict {
  /**
   * For `rejected`, `superseded` and `conflict`: why, for programs.
   */
  code?: string;
  /**
   * An entry of the conflict log: a UUIDv7, so entries sort by time.
   */
  conflict?: string;
  current?: EntityState;
  /**
   * For `merged`: the operation's fields as they are now.
   */
  fields?: {
    [k: string]: unknown;
  };
  /**
   * The entity's id; still the local one if the operation was refused before it had another.
   */
  id: EntityRef;
  /**
   * `local:`, then 1 to 120 printable characters without `:`
   */
  local_id?: string;
  /**
   * For `rejected`, `superseded` and `conflict`: why, for people.
   */
  message?: string;
  /**
   * The operation answered.
   */
  op_id: OpId;
  /**
   * What became of it.
   */
  outcome: Outcome;
  /**
   * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
   */
  seq?: number;
  /**
   * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
   */
  version?: number;
}
/**
 * For `superseded` and `conflict`: the entity as the server has it.
 */
export interface EntityState {
  /**
   * Whether it was deleted.
   */
  deleted?: boolean;
  /**
   * All its fields that the reader may see; empty if deleted.
   */
  fields: {
    [k: string]: unknown;
  };
  /**
   * The `seq` of its last change.
   */
  version: Seq;
}
/**
 * A request without a richer answer was done.
 */
export interface ServerOkFrame {
  /**
   * The request answered.
   */
  id: number | string;
  type: "ok";
}
/**
 * One change of the log.
 */
export interface ServerChangeFrame {
  type: "change";
  /**
   * Who did it. This and what follows are absent for readers from whom all its fields are hidden.
   */
  actor?: string;
  /**
   * When, in milliseconds since the Unix epoch by the hub's clock.
   */
  at?: number;
  /**
   * The entity changed.
   */
  entity: EntityKey;
  /**
   * The changed fields.
   */
  fields?: {
    [k: string]: unknown;
  };
  /**
   * What happened to it.
   */
  kind: ChangeKind;
  /**
   * 1 to 128 printable characters without `:`
   */
  op_id?: string;
  /**
   * The entity's version before; 0 for a create.
   */
  prev: Seq;
  /**
   * The project.
   */
  project: ProjectId;
  /**
   * Its position.
   */
  seq: Seq;
  /**
   * The entity's version now, equal to `seq`.
   */
  version: Seq;
}
/**
 * One entity: its type and its id within the type.
 */
export interface EntityKey {
  /**
   * The entity's id.
   */
  id: EntityId;
  /**
   * The entity's type.
   */
  type: EntityType;
}
/**
 * Changes up to `seq` exist that this reader's role may not read.
 */
export interface ServerAdvanceFrame {
  /**
   * 1 to 64 letters, digits, `_` or `-`
   */
  project: string;
  /**
   * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
   */
  seq: number;
  type: "advance";
}
/**
 * An ephemeral broadcast.
 */
export interface ServerEventFrame {
  /**
   * Its data.
   */
  data?: unknown;
  /**
   * The event's name.
   */
  event: string;
  /**
   * 1 to 128 printable characters without `:`
   */
  from?: string;
  /**
   * `project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`
   */
  room: string;
  type: "event";
}
/**
 * Who came, went or changed their state in a room.
 */
export interface ServerPresenceFrame {
  type: "presence";
  /**
   * Users whose first connection joined.
   */
  joined?: Member[];
  /**
   * Users whose last connection left and did not come back within the grace.
   */
  left?: UserId[];
  /**
   * Everyone, as in `subscribed`: what was said before is void.
   */
  members?: Member[];
  /**
   * The room.
   */
  room: Room;
  /**
   * Users whose state changed.
   */
  updated?: Member[];
  /**
   * How many users are here now.
   */
  users: number;
}
/**
 * Something this user should know, on every device.
 */
export interface ServerNotificationFrame {
  type: "notification";
  /**
   * When, in milliseconds since the Unix epoch.
   */
  at: number;
  /**
   * The text a person reads.
   */
  body: string;
  /**
   * What kind it is.
   */
  category?: string;
  /**
   * Data for the app.
   */
  data?: {
    [k: string]: unknown;
  };
  /**
   * How urgent.
   */
  lane: Lane;
  /**
   * A deep link.
   */
  link?: string;
  /**
   * Its id; a client shows each id once.
   */
  nid: string;
  /**
   * The project it came from.
   */
  project: ProjectId;
  /**
   * The change it belongs to.
   */
  seq: Seq;
  /**
   * The title a person reads.
   */
  title: string;
}
/**
 * A conflict of this user's was opened, or is resolved; on every device.
 */
export interface ServerConflictFrame {
  conflict: Conflict;
  /**
   * 1 to 64 letters, digits, `_` or `-`
   */
  project: string;
  type: "conflict";
}
/**
 * The conflict.
 */
export interface Conflict {
  /**
   * The version the client saw.
   */
  base: Seq;
  /**
   * From which installation.
   */
  client: string;
  /**
   * When, in milliseconds since the Unix epoch.
   */
  created_at: number;
  /**
   * The entity.
   */
  entity: EntityKey;
  /**
   * What was at stake.
   */
  fields: ConflictField[];
  /**
   * Its id.
   */
  id: ConflictId;
  /**
   * What the two sides did.
   */
  kind: ConflictKind;
  /**
   * The operation.
   */
  op_id: OpId;
  /**
   * What the operation asked for.
   */
  op_kind: OpKind;
  /**
   * How it was decided: what became of the operation. `conflict` while it is open.
   */
  outcome: Outcome;
  /**
   * When the user resolved it.
   */
  resolved_at?: number;
  /**
   * 1 to 128 printable characters without `:`
   */
  resolved_by?: string;
  /**
   * The version it met: what `server` values are of. Resolve with this as `expected_version`.
   */
  server_version: Seq;
  /**
   * Whether it is decided.
   */
  state: ConflictState;
  /**
   * The strategy that decided, of the entity type or of the field that parked the operation.
   */
  strategy: Strategy;
  /**
   * Who sent it.
   */
  user: string;
}
/**
 * One field of a conflict.
 */
export interface ConflictField {
  /**
   * What the client set; absent for a deletion.
   */
  client?: unknown;
  /**
   * Whether both sides changed it; a parked operation's other fields are listed too.
   */
  conflict: boolean;
  /**
   * Its name.
   */
  name: string;
  /**
   * What is there now; absent while the conflict is open.
   */
  result?: unknown;
  /**
   * What was there; absent if nothing was.
   */
  server?: unknown;
  /**
   * The strategy in force for it.
   */
  strategy: Strategy;
  /**
   * What the client started from, if it said so.
   */
  was?: unknown;
}
/**
 * An operation of this user's was tried again; on every device. Without the entity's fields, which
 * come as changes: a device's token may read less than the one the operation was sent with.
 */
export interface ServerVerdictFrame {
  /**
   * 1 to 64 letters, digits, `_` or `-`
   */
  project: string;
  type: "verdict";
  verdict: Verdict1;
}
/**
 * The answer to one operation.
 */
export interface Verdict1 {
  /**
   * For `rejected`, `superseded` and `conflict`: why, for programs.
   */
  code?: string;
  /**
   * An entry of the conflict log: a UUIDv7, so entries sort by time.
   */
  conflict?: string;
  current?: EntityState;
  /**
   * For `merged`: the operation's fields as they are now.
   */
  fields?: {
    [k: string]: unknown;
  };
  /**
   * The entity's id; still the local one if the operation was refused before it had another.
   */
  id: EntityRef;
  /**
   * `local:`, then 1 to 120 printable characters without `:`
   */
  local_id?: string;
  /**
   * For `rejected`, `superseded` and `conflict`: why, for people.
   */
  message?: string;
  /**
   * The operation answered.
   */
  op_id: OpId;
  /**
   * What became of it.
   */
  outcome: Outcome;
  /**
   * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
   */
  seq?: number;
  /**
   * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
   */
  version?: number;
}
/**
 * The cursor of a room is of no use any more: fetch its state anew.
 */
export interface ServerResyncFrame {
  /**
   * Why.
   */
  reason: "cursor_too_old" | "epoch_changed" | "scope_changed";
  /**
   * `project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`
   */
  room: string;
  type: "resync";
}
/**
 * Access to a room was lost, or to a part of what it brings: purge what came from it.
 */
export interface ServerGoneFrame {
  /**
   * Types that stay, if `types` is `*`.
   */
  except?: string[];
  /**
   * Fields by type; `*` is every type that stays.
   */
  fields?: {
    [k: string]: string[];
  };
  /**
   * Why.
   */
  reason: "access_lost" | "scope_changed";
  /**
   * `project:{project}`, `entity:{project}:{type}:{id}`, `user:{user}` or `room:{project}:{name}`
   */
  room: string;
  type: "gone";
  /**
   * Types of entity; `*` is every type.
   */
  types?: string[];
}
/**
 * The user's role in some projects is another now.
 */
export interface ServerAccessFrame {
  /**
   * The projects concerned; null is one the user is in no more.
   */
  projects: {
    [k: string]: ProjectGrant;
  };
  type: "access";
}
/**
 * The token expires soon: send `refresh`.
 */
export interface ServerTokenExpiringFrame {
  /**
   * Seconds left.
   */
  ttl: number;
  type: "token_expiring";
}
/**
 * The hub is about to close this connection.
 */
export interface ServerGoodbyeFrame {
  /**
   * Why.
   */
  reason: string;
  /**
   * How long to wait before connecting again, already spread per connection.
   */
  reconnect_in_ms: number;
  /**
   * Whether the cursors stay good.
   */
  resume: boolean;
  type: "goodbye";
}
/**
 * Answers `ping`.
 */
export interface ServerPongFrame {
  /**
   * The request answered.
   */
  id?: number | string;
  type: "pong";
}
/**
 * A request was refused.
 */
export interface ServerErrorFrame {
  /**
   * What kind of refusal.
   */
  code:
    | "bad_request"
    | "unknown_type"
    | "invalid_name"
    | "unauthorized"
    | "token_expired"
    | "token_revoked"
    | "forbidden"
    | "not_found"
    | "not_subscribed"
    | "checksum_mismatch"
    | "limit_exceeded"
    | "rate_limited"
    | "overloaded"
    | "unavailable"
    | "internal";
  /**
   * More for programs, by code.
   */
  detail?: unknown;
  /**
   * The request answered, if it could be read.
   */
  id?: number | string;
  /**
   * A sentence that says what to do.
   */
  message: string;
  /**
   * Milliseconds to wait before trying again.
   */
  retry_after_ms?: number;
  type: "error";
}
