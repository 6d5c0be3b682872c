/** One client with its project `p`, on a fake hub, with a clock and a disk of the test's. */

import { type Client, type ClientOptions, createClient } from "../../src/client.js";
import type { Project } from "../../src/project.js";
import { settle, TestClock } from "./clock.js";
import { FakeHub } from "./fake-hub.js";
import { FaultyStorage } from "./faulty.js";

export class World {
  readonly clock = new TestClock();
  client!: Client;
  project!: Project;
  /** Stops following it. */
  leave!: () => void;

  constructor(
    readonly hub = new FakeHub(),
    public storage = new FaultyStorage(),
  ) {}

  async start(options: Partial<ClientOptions> = {}): Promise<this> {
    const { hub, clock, storage } = this;
    const getToken = () => "token";
    const { user } = hub;
    this.client = await createClient({ url: "http://hub.test", getToken, user, clock, storage, openSocket: hub.openSocket, fetch: hub.fetch, hints: () => () => {}, ...options });
    this.project = await this.client.project("p");
    this.leave = this.project.subscribe();
    return this;
  }

  async online(): Promise<this> {
    await this.client.connect();
    await settle();
    return this;
  }

  /** The process is killed: another one starts from what the disk has. */
  async restart(): Promise<World> {
    this.client.disconnect();
    void this.storage.die();
    return new World(this.hub, new FaultyStorage(this.storage.disk)).start();
  }

  async titles(type = "task"): Promise<unknown[]> {
    const all = await this.project.query(type).ready();
    return all.map(({ fields }) => fields["title"]);
  }
}
