/** `@syncline/client`: the core. Adapters, React and push have entries of their own. */

export { AuthError, ClosedError, DisconnectedError, DiscardedError, InUseError, RejectedError, RequestError, StorageError, SynclineError, WrongUserError } from "./errors.js";
export { type Client, type ClientOptions, createClient, type Status } from "./client.js";
export type { Backoff } from "./backoff.js";
export type { Project, Resolution } from "./project.js";
export { type EphemeralRoom, type Presence, room } from "./presence.js";
export type { Live, QueryOptions, Snapshot } from "./live.js";
export type { Edit, EditOptions } from "./outbox.js";
export type { Entity, Fields, PendingOp } from "./model.js";
export type { KnownConflict } from "./conflicts.js";
export type { StreamState } from "./stream.js";
export { type CleanUp, cleanUp, syncLog, syncNow, type SyncOptions, type SyncResult } from "./sync.js";
export { type Cache, type CachePolicy, type CacheStrategy, openCache, type ReadOptions, type ReadStats } from "./cache.js";
export type { CacheStats } from "./lru.js";
export type { ConnectionState } from "./connection.js";
export type { GetToken, TokenReason } from "./token.js";
export { type Watched } from "./emitter.js";
export {
  type AppStateLike,
  browserHints,
  type Clock,
  type Fetch,
  type FetchResponse,
  type Hint,
  type HintSource,
  nativeHints,
  type NetInfoLike,
  type OpenSocket,
  type Socket,
  systemClock,
} from "./platform.js";
export type { Put, Storage, Table } from "./storage/storage.js";
export { MemoryStorage } from "./storage/memory.js";
export { type IndexedDbOptions, type LocksLike, openIndexedDb } from "./storage/indexeddb.js";
export { type KeyValue, openKeyValue } from "./storage/keyvalue.js";
export { openSqlite, type SqliteDatabase } from "./storage/sqlite.js";
export { clear, type ClearOptions } from "./storage/clear.js";
export { type Codec, compressed, gzip } from "./storage/compressed.js";
export type { Lane, Notify, Op, ClientFrame } from "./protocol/client.gen.js";
export type { Conflict, Outcome, ServerFrame, ServerNotificationFrame as Notification, Verdict } from "./protocol/server.gen.js";
