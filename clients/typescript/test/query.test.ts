/** TanStack Query over a project: patched by live changes, edited through the outbox. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { MutationObserver, QueryClient, QueryObserver } from "@tanstack/query-core";
import { createClient } from "../src/client.js";
import type { QueryOptions } from "../src/live.js";
import { entitiesQuery, keepQuery, outboxMutation } from "../src/query.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

test("a query is patched by edits offline and by changes of others", async () => {
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  const project = await client.project("p");
  project.subscribe();
  const queries = new QueryClient();
  const stop = keepQuery(queries, project, "task");
  const observer = new QueryObserver(queries, entitiesQuery<{ title: string }>(project, "task"));
  observer.subscribe(() => {});
  const titles = () => observer.getCurrentResult().data?.map(({ fields }) => fields.title);
  await settle();
  assert.deepEqual(titles(), []);
  const add = new MutationObserver(queries, outboxMutation((title: string) => project.insert("task", { title }, { id: "t1" })));
  await add.mutate("mine");
  await settle();
  assert.deepEqual(titles(), ["mine"]);
  await client.connect();
  await settle();
  hub.write("task", "t2", { title: "theirs" });
  await settle();
  assert.deepEqual(titles(), ["mine", "theirs"]);
  stop();
  queries.clear();
  await client.close();
});

test("queries that differ in what they show of a type show each its own, and all are patched", async () => {
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", user: "ana", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
  const project = await client.project("p");
  const queries = new QueryClient();
  const stop = keepQuery(queries, project, "task");
  interface Task {
    title: string;
    done: boolean;
  }
  for (const [id, done] of [["t1", false], ["t2", true], ["t3", false]] as const) await project.insert("task", { title: id, done }, { id }).local;
  const watch = (options?: QueryOptions<Task>) => {
    const observer = new QueryObserver(queries, entitiesQuery<Task>(project, "task", options));
    observer.subscribe(() => {});
    return () => observer.getCurrentResult().data?.map(({ id }) => id);
  };
  const all = watch();
  const open = watch({ where: ({ fields }) => !fields.done });
  const last = watch({ sort: (a, b) => (a.id < b.id ? 1 : -1), limit: 1 });
  await settle();
  assert.deepEqual([all(), open(), last()], [["t1", "t2", "t3"], ["t1", "t3"], ["t3"]]);
  await project.update("task", "t1", { done: true }).local;
  await project.insert("task", { title: "t4", done: false }, { id: "t4" }).local;
  await settle();
  assert.deepEqual([all(), open(), last()], [["t1", "t2", "t3", "t4"], ["t3", "t4"], ["t4"]]);
  stop();
  queries.clear();
  await client.close();
});
