/** Conflicts of this user's: what the hub tells of them, kept on the device, with both sides' values. */

import type { Fields, PendingOp, Row } from "./model.js";
import type { Project } from "./project.js";
import type { Conflict, Verdict } from "./protocol/server.gen.js";
import type { Change, Left } from "./replica.js";
import { key } from "./storage/storage.js";

/** A conflict as the device knows it. */
export interface KnownConflict {
  id: string;
  project: string;
  /** `open` waits for the user; what a strategy decided at once is `closed`. */
  state: "open" | "resolved" | "closed";
  type: string;
  entity: string;
  opId: string;
  /** What the user's edit would have set: never lost, whoever won. */
  client: Fields;
  /** What stands instead. */
  server: Fields;
  /** Whether somebody had deleted the entity. */
  serverDeleted: boolean;
  /** The version that `server` is of. */
  serverVersion: number;
  /** The fields that both sides changed, as far as it is known. */
  fields: string[];
  at: number;
}

interface ConflictPage {
  conflicts: Conflict[];
  next?: string;
}

/** Notes what a verdict says of a conflict; the hub's own record of it follows in a frame. */
export async function saveVerdictConflict(change: Change, op: PendingOp, verdict: Verdict): Promise<void> {
  const { replica } = change;
  if (op.kind === "resolve" && op.conflict !== undefined) {
    const known = replica.conflicts.get().get(op.conflict);
    if (!known) return;
    const moved = verdict.outcome === "conflict";
    const row = await change.row(op.type, replica.resolve(op.type, op.id));
    const now = moved && row ? { server: row.fields, serverVersion: row.version } : {};
    keep(change, { ...known, state: moved ? "open" : "resolved", ...now });
    return;
  }
  if (verdict.conflict === undefined) return;
  const server = verdict.current?.fields ?? verdict.fields ?? {};
  // The hub's own record, if that came first, is the fuller and the later one.
  const known = replica.conflicts.get().get(verdict.conflict);
  keep(change, {
    id: verdict.conflict,
    project: replica.project,
    state: verdict.outcome === "conflict" ? "open" : "closed",
    type: op.type,
    entity: verdict.id,
    opId: op.opId,
    client: op.fields ?? {},
    server,
    serverDeleted: verdict.current?.deleted ?? false,
    serverVersion: verdict.current?.version ?? verdict.version ?? 0,
    fields: Object.keys(op.fields ?? {}).filter((name) => server[name] !== op.fields?.[name]),
    at: replica.clock.now(),
    ...known,
  });
}

/** Takes the hub's record of a conflict. */
export async function saveConflict(change: Change, told: Conflict): Promise<void> {
  const { replica } = change;
  const of = (side: "client" | "server"): Fields =>
    Object.fromEntries(told.fields.filter((field) => side in field).map((field) => [field.name, field[side]]));
  const known = replica.conflicts.get().get(told.id);
  keep(change, {
    id: told.id,
    project: replica.project,
    state: told.state,
    type: told.entity.type,
    entity: told.entity.id,
    opId: told.op_id,
    client: of("client"),
    server: { ...known?.server, ...of("server") },
    serverDeleted: told.kind === "deleted",
    serverVersion: told.server_version,
    fields: told.fields.filter((field) => field.conflict).map((field) => field.name),
    at: told.created_at,
  });
}

/** Asks the hub which conflicts wait: some may have opened or ended while the device was away. */
export async function askConflicts(project: Project): Promise<void> {
  const { name, replica, http } = project;
  const { purges } = replica;
  const before = replica.conflicts.get();
  const page = await http.get<ConflictPage>(`/v1/projects/${name}/conflicts?state=open`);
  const current = await replica.transact(async (change) => {
    if (purges !== replica.purges) return false;
    // Those of later pages are older, and not heard of here.
    if (!page.next) for (const known of before.values()) if (known.state === "open") keep(change, { ...known, state: "resolved" });
    for (const told of page.conflicts) await saveConflict(change, told);
    return true;
  });
  if (!current) await askConflicts(project);
}

/** Lets go of the hub's values that may not be read any more, as of rows. What the user wrote stays. */
export function purgeConflicts(change: Change, left: Left): void {
  for (const conflict of change.replica.conflicts.get().values()) {
    const row = { type: conflict.type, id: conflict.entity, fields: conflict.server } as Row;
    const rest = left(row);
    if (rest !== row) keep(change, { ...conflict, server: rest?.fields ?? {} });
  }
}

/** Forgets a conflict, in the store and in memory. */
export function dropConflict(change: Change, { id }: KnownConflict): void {
  const { conflicts, project } = change.replica;
  change.puts.push({ table: "conflicts", key: key(project, id) });
  change.after.push(() => conflicts.set(new Map([...conflicts.get()].filter(([other]) => other !== id))));
}

function keep(change: Change, conflict: KnownConflict): void {
  const { conflicts } = change.replica;
  change.puts.push({ table: "conflicts", key: key(conflict.project, conflict.id), value: conflict });
  change.after.push(() => conflicts.set(new Map(conflicts.get()).set(conflict.id, conflict)));
}
