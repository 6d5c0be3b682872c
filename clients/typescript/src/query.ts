/**
 * `@syncline/client/query`: a project's entities in TanStack Query. Its cache holds a type's entities once, as the
 * device has them; each query selects from them. Live changes and pending edits patch what is held, so nothing is
 * fetched twice and nothing needs to be invalidated by hand.
 */

import { pick, type QueryOptions } from "./live.js";
import type { Entity, Fields } from "./model.js";
import type { Project } from "./project.js";
import type { Edit } from "./outbox.js";

/** The part of a `QueryClient` that is used. */
export interface QueryClientLike {
  setQueryData(key: readonly unknown[], data: unknown): unknown;
}

/** The key of a type's entities. */
export const entitiesKey = (project: string, type: string) => ["syncline", project, type] as const;

/**
 * Options of a query for the entities of a type, or some of them; patch them with `keepQuery`. However many queries
 * select from a type, they share its entry in the cache.
 */
export function entitiesQuery<F = Fields>(project: Project, type: string, options: QueryOptions<F> = {}) {
  return {
    queryKey: entitiesKey(project.name, type),
    queryFn: (): Promise<Entity<F>[]> => project.query<F>(type).ready(),
    select: (all: Entity<F>[]): Entity<F>[] => pick(all, options),
    // The device answers without a network, and what it says is kept true: nothing goes stale.
    networkMode: "always" as const,
    staleTime: Infinity,
  };
}

/** Keeps a type's entities in the cache as they are on the device, for all its queries; the returned function stops. */
export function keepQuery(queries: QueryClientLike, project: Project, type: string): () => void {
  const live = project.query(type);
  return live.subscribe(() => {
    const { data, loading } = live.get();
    if (!loading) queries.setQueryData(entitiesKey(project.name, type), data);
  });
}

/** Options of a mutation that goes to the outbox: done as soon as it is stored on the device, online or not. */
export function outboxMutation<Variables>(edit: (variables: Variables) => Edit) {
  return {
    networkMode: "always" as const,
    mutationFn: async (variables: Variables): Promise<Edit> => {
      const made = edit(variables);
      await made.local;
      return made;
    },
  };
}
