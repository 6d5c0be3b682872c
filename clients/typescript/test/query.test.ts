/** TanStack Query over a project: patched by live changes, edited through the outbox. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { MutationObserver, QueryClient, QueryObserver } from "@tanstack/query-core";
import { createClient } from "../src/client.js";
import { entitiesQuery, keepQuery, outboxMutation } from "../src/query.js";
import { settle, TestClock } from "./support/clock.js";
import { FakeHub } from "./support/fake-hub.js";

test("a query is patched by edits offline and by changes of others", async () => {
  const hub = new FakeHub();
  const client = await createClient({ url: "http://hub.test", getToken: () => "t", clock: new TestClock(), openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {} });
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
