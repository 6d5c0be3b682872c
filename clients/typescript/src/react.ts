/** `@syncline/client/react`: hooks for React and React Native, on `useSyncExternalStore`. */

import {
  createContext,
  createElement,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { Client, Status } from "./client.js";
import type { KnownConflict } from "./conflicts.js";
import type { Live, QueryOptions, Snapshot } from "./live.js";
import type { Entity, Fields, PendingOp } from "./model.js";
import { type EphemeralRoom, type Presence, room } from "./presence.js";
import type { Project } from "./project.js";

const Context = createContext<Client | undefined>(undefined);

/** Gives a client to everything below it. */
export function SynclineProvider({ client, children }: { client: Client; children?: ReactNode }): ReactNode {
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error("put a <SynclineProvider client={…}> around this component");
  return client;
}

/** How long a project is followed after the last component that used it: the next screen may want it, too. */
const LINGER_MS = 5000;

/** A project, followed while somebody uses it; `undefined` until the device's store was read. */
export function useProject(name: string): Project | undefined {
  const client = useClient();
  const [opened, setOpened] = useState<Project>();
  useEffect(() => {
    let used = true;
    let leave = () => {};
    const use = (project: Project) => {
      if (!used) return;
      leave = project.subscribe();
      setOpened(project);
    };
    // A store that cannot be read says so in `status`.
    client.project(name).then(use, () => {});
    return () => {
      used = false;
      client.parts.clock.after(LINGER_MS, leave);
    };
  }, [client, name]);
  return opened?.name === name ? opened : undefined;
}

/** Connection, pending work, conflicts: what an app shows of the state of things. */
export function useSyncStatus(): Status {
  const { status } = useClient();
  return useSyncExternalStore(status.subscribe, status.get, status.get);
}

const NOTHING: Snapshot<undefined> = { data: undefined, loading: true };
const NONE: Snapshot<never[]> = { data: [], loading: true };
const silent = (): (() => void) => () => {};

function useLive<T>(live: Live<T> | undefined, empty: Snapshot<T>): Snapshot<T> {
  const get = live?.get ?? (() => empty);
  return useSyncExternalStore(live?.subscribe ?? silent, get, get);
}

/** One entity, with the user's pending edits. */
export function useEntity<F = Fields>(project: string, type: string, id: string): Snapshot<Entity<F> | undefined> {
  const opened = useProject(project);
  const live = useMemo(() => opened?.watch<F>(type, id), [opened, type, id]);
  return useLive<Entity<F> | undefined>(live, NOTHING);
}

/** The entities of a type. `deps` says when `options` mean something else. */
export function useQuery<F = Fields>(
  project: string,
  type: string,
  options: QueryOptions<F> = {},
  deps: readonly unknown[] = [],
): Snapshot<Entity<F>[]> {
  const opened = useProject(project);
  const latest = useRef(options);
  latest.current = options;
  const live = useMemo(() => opened?.query<F>(type, latest.current), [opened, type, ...deps]);
  return useLive<Entity<F>[]>(live, NONE);
}

/** What edits a project. `undefined` until the device's store was read: until then there is nothing to edit. */
export function useMutation(project: string): Pick<Project, "insert" | "update" | "delete"> | undefined {
  const opened = useProject(project);
  return useMemo(
    () =>
      opened && {
        insert: opened.insert.bind(opened),
        update: opened.update.bind(opened),
        delete: opened.delete.bind(opened),
      },
    [opened],
  );
}

/** Who is in an ephemeral room; this user, too, while the component is there. */
export function usePresence<State = unknown>(
  project: string,
  name: string,
): Presence<State> & Pick<EphemeralRoom<State>, "setState" | "broadcast"> {
  const client = useClient();
  const one = useMemo(() => room<State>(client, project, name), [client, project, name]);
  useEffect(() => one.join(), [one]);
  const presence = useSyncExternalStore(one.presence.subscribe, one.presence.get, one.presence.get);
  const setState = useCallback((state: State) => one.setState(state), [one]);
  const broadcast = useCallback((event: string, data?: unknown) => one.broadcast(event, data), [one]);
  return { ...presence, setState, broadcast };
}

/** A list that a project computes, kept as long as its source is the same. */
function useList<T>(
  opened: Project | undefined,
  subscribe: ((listener: () => void) => () => void) | undefined,
  source: () => unknown,
  read: () => readonly T[],
): readonly T[] {
  const kept = useRef<{ of: unknown; project: unknown; list: readonly T[] }>({ of: undefined, project: undefined, list: [] });
  const get = () => {
    const of = source();
    if (kept.current.of !== of || kept.current.project !== opened) kept.current = { of, project: opened, list: read() };
    return kept.current.list;
  };
  return useSyncExternalStore(subscribe ?? silent, get, get);
}

/** This user's conflicts, the open ones first. */
export function useConflicts(project: string): readonly KnownConflict[] {
  const opened = useProject(project);
  const subscribe = useMemo(() => opened && ((listener: () => void) => opened.conflictsChanged(listener)), [opened]);
  return useList(opened, subscribe, () => opened?.replica.conflicts.get(), () => opened?.conflicts() ?? []);
}

/** What waits for the hub, and what failed. */
export function usePendingOps(project: string): readonly PendingOp[] {
  const opened = useProject(project);
  const subscribe = useMemo(() => opened && ((listener: () => void) => opened.pendingChanged(listener)), [opened]);
  return useList(opened, subscribe, () => opened?.replica.ops, () => opened?.pending() ?? []);
}
