/**
 * Reading by the cache strategy of an entity's type, which the hub tells. What a live project brings is true and
 * needs none of this; it is for what is read by itself.
 */

import type { Client } from "./client.js";
import { isForbidden } from "./errors.js";
import type { Http } from "./http.js";
import type { CacheStats } from "./lru.js";
import type { Cursor, Entity, Fields, Row } from "./model.js";
import type { Clock } from "./platform.js";
import type { Project } from "./project.js";
import type { Replica } from "./replica.js";
import { utf8 } from "./sha256.js";
import type { Store } from "./store.js";

/** Whether the device or the hub is asked first. */
export type CacheStrategy = "CACHE_FIRST" | "STALE_WHILE_REVALIDATE" | "NETWORK_FIRST";

/** How long to keep what was read of a type; seconds and bytes. */
export interface CachePolicy {
  type: string;
  strategy: CacheStrategy;
  ttl: number;
  stale: number;
  max_bytes: number;
}

/** How to read. */
export interface ReadOptions {
  /** Instead of the policy's. */
  strategy?: CacheStrategy;
}

/** What reads found. */
export interface ReadStats {
  fresh: number;
  stale: number;
  misses: number;
  fetched: number;
}

/** For types without a policy. */
const DEFAULT: Omit<CachePolicy, "type"> = { strategy: "STALE_WHILE_REVALIDATE", ttl: 300, stale: 86_400, max_bytes: Infinity };
const POLICIES = "cache-policies";

/** Whether nothing but its age tells what a row is worth: no copy of its project covers it. */
const isAlone = ({ alone }: Row, cursor: Cursor | undefined): boolean => alone === true || !cursor;

/** Whether a row has to stay, because it is followed or pending operations stand on it. */
export const isNeeded = (replica: Replica, { type, id }: Row): boolean =>
  replica.comes(type, id) || replica.opsOf(type, id).length > 0;

/** Opens the cache of a client, with the policies it last heard of. */
export async function openCache(client: Client): Promise<Cache> {
  const { store, http, clock } = client.parts;
  const cache = new Cache(store, http, clock);
  await cache.load();
  return cache;
}

/** Reads by strategy, from the device, from the hub, or both. Made by `openCache`. */
export class Cache {
  private readonly counts: ReadStats = { fresh: 0, stale: 0, misses: 0, fetched: 0 };
  private policies = new Map<string, CachePolicy>();

  constructor(
    private readonly store: Store,
    private readonly http: Http,
    private readonly clock: Clock,
  ) {}

  /** @internal Takes up the policies that were kept. */
  async load(): Promise<void> {
    this.take((await this.store.get<CachePolicy[]>("meta", POLICIES)) ?? []);
  }

  /** Asks the hub for its policies and keeps them: once a day is enough. */
  async refresh(): Promise<void> {
    const { policies } = await this.http.get<{ policies: CachePolicy[] }>("/v1/cache-policies");
    await this.store.commit([{ table: "meta", key: POLICIES, value: policies }]);
    this.take(policies);
  }

  /** The policy of a type. */
  policy(type: string): Omit<CachePolicy, "type"> {
    return this.policies.get(type) ?? DEFAULT;
  }

  /** What the caches did. */
  stats(): { memory: CacheStats; reads: ReadStats } {
    return { memory: this.store.cache.stats(), reads: { ...this.counts } };
  }

  /** One entity, by the strategy of its type. */
  async read<F = Fields>(
    project: Project,
    type: string,
    id: string,
    options: ReadOptions = {},
  ): Promise<Entity<F> | undefined> {
    return (await this.choose(project, type, id, options)) as Entity<F> | undefined;
  }

  private async choose(project: Project, type: string, id: string, options: ReadOptions): Promise<Entity | undefined> {
    const local = await project.get(type, id);
    if (project.state.get() === "live") {
      this.counts.fresh++;
      return local;
    }
    const policy = this.policy(type);
    const row = await this.store.row(project.name, type, project.replica.resolve(type, id));
    const age = row ? (this.clock.now() - row.at) / 1000 : Infinity;
    // The user's own pending edit is never too old to be shown to them, nor is what the project's copy shows anyway.
    const usable = age < policy.ttl + policy.stale || (local?.pending ?? 0) > 0 || (row && !isAlone(row, project.replica.cursor));
    const strategy = options.strategy ?? policy.strategy;
    if (strategy !== "NETWORK_FIRST" && age < policy.ttl) {
      this.counts.fresh++;
      return local;
    }
    if (strategy === "STALE_WHILE_REVALIDATE" && usable) {
      this.counts.stale++;
      void this.fetch(project, type, id).catch(() => {});
      return local;
    }
    try {
      return await this.fetch(project, type, id);
    } catch (error) {
      // That the user may not read it is an answer.
      if (!usable || isForbidden(error)) {
        this.counts.misses++;
        throw error;
      }
      this.counts.stale++;
      return local;
    }
  }

  /**
   * Lets go of what was read alone and is too old or too much by its policy. Rows that are followed, or that pending
   * operations stand on, stay whatever their age.
   */
  async evict(project: Project): Promise<number> {
    const { replica } = project;
    return replica.transact(async (change) => {
      const sizes = new Map<string, number>();
      let dropped = 0;
      const alone = (await replica.rows()).filter((row) => isAlone(row, change.cursor)).sort((a, b) => b.at - a.at);
      for (const row of alone) {
        const policy = this.policy(row.type);
        const size = (sizes.get(row.type) ?? 0) + utf8(JSON.stringify(row)).length;
        const old = this.clock.now() - row.at > (policy.ttl + policy.stale) * 1000;
        if ((old || size > policy.max_bytes) && !isNeeded(replica, row)) {
          change.dropRow(row.type, row.id);
          dropped++;
        } else sizes.set(row.type, size);
      }
      return dropped;
    });
  }

  private async fetch(project: Project, type: string, id: string): Promise<Entity | undefined> {
    const entity = await project.fetch(type, project.replica.resolve(type, id));
    this.counts.fetched++;
    return entity;
  }

  private take(policies: CachePolicy[]): void {
    this.policies = new Map(policies.map((policy) => [policy.type, policy]));
  }
}
