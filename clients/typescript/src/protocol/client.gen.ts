/* Made by `npm run types` from schema/client.json. Do not edit. */

/**
 * What a client says.
 */
export type ClientFrame =
  | ConnectFrame
  | RefreshFrame
  | SubscribeFrame
  | UnsubscribeFrame
  | WriteFrame
  | BroadcastFrame
  | PresenceFrame
  | AckFrame
  | PushDeviceFrame
  | PingFrame;
/**
 * 1 to 64 letters, digits, `_` or `-`
 */
export type ClientId = string;
/**
 * A client's own number or name for a request, echoed in the reply. At most 64 characters.
 */
export type RequestId = number | string;
/**
 * The identity of a project's sequence; it changes when a store is restored from a backup, so that a
 * cursor from the lost future is recognised.
 */
export type Epoch = string;
/**
 * A position in a project's log: dense, in commit order, starting at 1; 0 is "before the first".
 */
export type Seq = number;
/**
 * Whose values stand once a conflict is resolved.
 */
export type Choose =
  | Side
  | {
      [k: string]: Side;
    };
/**
 * A side of a conflict.
 */
export type Side = "client" | "server";
/**
 * An entry of the conflict log: a UUIDv7, so entries sort by time.
 */
export type ConflictId = string;
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
 * What an operation asks for.
 */
export type OpKind = "create" | "update" | "delete" | "resolve";
/**
 * How urgent a notification is.
 */
export type Lane = "critical" | "high" | "normal";
/**
 * 1 to 32 letters, digits, `_` or `-`
 */
export type RoleName = string;
/**
 * When a notification is due, if not at once.
 */
export type SendAt =
  | number
  | {
      /**
       * The time, without a zone.
       */
      local: string;
      /**
       * The zone, e.g. `Europe/Berlin`; each recipient's own without it.
       */
      tz?: string | null;
    };
/**
 * 1 to 128 printable characters without `:`
 */
export type UserId = string;
/**
 * 1 to 128 printable characters without `:`
 */
export type OpId = string;
/**
 * a lower-case letter, then up to 63 lower-case letters, digits or `_`
 */
export type EntityType = string;
/**
 * 1 to 64 letters, digits, `_` or `-`
 */
export type ProjectId = string;

/**
 * `connect`.
 */
export interface ConnectFrame {
  /**
   * Whether the app is in the foreground.
   */
  active?: boolean | null;
  /**
   * This installation, the same across reconnects.
   */
  client?: ClientId | null;
  /**
   * The device, for diagnostics and push.
   */
  device?: unknown;
  id?: RequestId;
  /**
   * The JWT, unless the handshake carried it.
   */
  token?: string | null;
  type: "connect";
}
/**
 * `refresh`.
 */
export interface RefreshFrame {
  id?: RequestId;
  /**
   * The new JWT, of the same user.
   */
  token: string;
  type: "refresh";
}
/**
 * `subscribe`: each room is answered on its own.
 */
export interface SubscribeFrame {
  id?: RequestId;
  /**
   * The rooms to join.
   */
  rooms: SubscribeRoom[];
  type: "subscribe";
}
/**
 * One room of a `subscribe`.
 */
export interface SubscribeRoom {
  /**
   * The epoch `since` belongs to.
   */
  epoch?: Epoch | null;
  /**
   * Whether to appear in the room's presence and to hear of it.
   */
  presence?: boolean;
  /**
   * The room's name, checked when it is joined, so that one bad name spoils no other.
   */
  room: string;
  /**
   * The scope `since` was stored with.
   */
  scope?: string | null;
  /**
   * The last position this client has stored; the changes after it follow. Absent: from now on.
   */
  since?: Seq | null;
}
/**
 * `unsubscribe`.
 */
export interface UnsubscribeFrame {
  id?: RequestId;
  /**
   * The rooms to leave; unknown ones are no error.
   */
  rooms: string[];
  type: "unsubscribe";
}
/**
 * A `write` as it is sent.
 */
export interface WriteFrame {
  /**
   * SHA-256 in hex of the text of `ops`.
   */
  checksum?: string | null;
  client?: ClientId | null;
  id?: RequestId;
  ops: Op[];
  project?: ProjectId | null;
  sent_at?: number | null;
  type: "write";
}
/**
 * One operation of a client on one entity. `op_id` makes it safe to send again.
 */
export interface Op {
  /**
   * The version of the entity the client saw; 0 for a create.
   */
  base?: Seq;
  /**
   * For a resolve: whose values stand; where `fields` has a value, that one.
   */
  choose?: Choose | null;
  /**
   * For a resolve: the conflict.
   */
  conflict?: ConflictId | null;
  /**
   * When the user made the edit, in milliseconds since the Unix epoch by the client's clock.
   */
  edited_at?: number | null;
  /**
   * For a resolve: the entity's version the decision was made on.
   */
  expected_version?: Seq | null;
  /**
   * The fields to set; empty for a delete.
   */
  fields?: {
    [k: string]: unknown;
  };
  /**
   * Operations of one request with the same group take effect together or not at all; they stand next
   * to each other.
   */
  group?: string | null;
  /**
   * The entity.
   */
  id: EntityRef;
  /**
   * What to do.
   */
  kind: OpKind;
  /**
   * Whom to reach about it.
   */
  notify?: Notify | null;
  /**
   * The idempotency key, unique within the project; UUIDv7 by convention.
   */
  op_id: OpId;
  /**
   * Whether it goes before others of the same request, on other entities.
   */
  priority?: Lane;
  /**
   * The rejected operation of the same user in whose place this one is sent. That one leaves the failed
   * lane; if it took effect meanwhile, because somebody tried it again, this one does nothing.
   */
  replaces?: OpId | null;
  /**
   * The entity's type.
   */
  type: EntityType;
  /**
   * What the client had in these fields before the edit. Merging counters, sets and texts needs it.
   */
  was?: {
    [k: string]: unknown;
  };
}
/**
 * Whom a change has to reach, and with what words.
 */
export interface Notify {
  /**
   * The text a person reads.
   */
  body?: string;
  /**
   * What kind it is, for the app's settings and buttons.
   */
  category?: string | null;
  /**
   * Pushes of one key are gathered, and the later replaces the earlier on the device.
   */
  collapse?: string | null;
  /**
   * Data for the app.
   */
  data?: {
    [k: string]: unknown;
  } | null;
  /**
   * How urgent.
   */
  lane?: Lane;
  /**
   * A deep link for the app to open.
   */
  link?: string | null;
  /**
   * All members of the project.
   */
  members?: boolean;
  /**
   * The members with one of these roles.
   */
  roles?: RoleName[];
  /**
   * When it is due; at once without it.
   */
  send_at?: SendAt | null;
  /**
   * A configured template, instead of a title and a text.
   */
  template?: string | null;
  /**
   * The title a person reads.
   */
  title?: string;
  /**
   * Seconds after which the push is of no use any more.
   */
  ttl?: number | null;
  /**
   * The recipients. The actor is never notified of their own act.
   */
  users?: UserId[];
  /**
   * What the template says `{{ … }}` of.
   */
  vars?: {
    [k: string]: unknown;
  } | null;
}
/**
 * `broadcast`.
 */
export interface BroadcastFrame {
  /**
   * Any JSON.
   */
  data?: unknown;
  /**
   * The event's name, for the receivers' dispatch. At most 64 characters.
   */
  event: string;
  id?: RequestId;
  /**
   * The ephemeral room.
   */
  room: string;
  type: "broadcast";
}
/**
 * `presence`.
 */
export interface PresenceFrame {
  id?: RequestId;
  /**
   * The room, joined with `presence: true`.
   */
  room: string;
  /**
   * Any JSON of at most `limits.presence_bytes`.
   */
  state: unknown;
  type: "presence";
}
/**
 * `ack`.
 */
export interface AckFrame {
  /**
   * Whether the app is in the foreground.
   */
  active?: boolean | null;
  id?: RequestId;
  /**
   * The project acknowledged; absent when only `active` is reported.
   */
  project?: ProjectId | null;
  /**
   * Stored by the client up to here, cumulative.
   */
  seq?: Seq | null;
  type: "ack";
}
/**
 * `push_device`: the full state of this installation, as it is now. The token belongs to the connection's
 * user from then on, whoever had it before.
 */
export interface PushDeviceFrame {
  /**
   * The app's version.
   */
  app_version?: string | null;
  id?: RequestId;
  /**
   * The language, e.g. `pt-BR`.
   */
  locale?: string | null;
  /**
   * The device's model.
   */
  model?: string | null;
  /**
   * `ios`, `android` or `web`.
   */
  platform?: string;
  /**
   * Whose token it is, e.g. `expo`.
   */
  provider: string;
  /**
   * The token; without one the installation is forgotten.
   */
  token?: string | null;
  type: "push_device";
  /**
   * The time zone, e.g. `America/Sao_Paulo`.
   */
  tz?: string | null;
}
export interface PingFrame {
  id?: RequestId;
  type: "ping";
}
