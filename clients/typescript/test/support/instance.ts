/** One of the three instances that `scripts/with-hub` runs: killed, and started again. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { openSync } from "node:fs";
import { eventually } from "./clock.js";
import { PIDS } from "./real.js";

const { SYNCLINE_TEST_BIN = "", SYNCLINE_TEST_CONFIGS = "" } = process.env;

export class Instance {
  private readonly config: string;
  private child: ChildProcess | undefined;
  private runs = true;

  constructor(private readonly at: 0 | 1 | 2) {
    this.config = SYNCLINE_TEST_CONFIGS.split(" ")[at]!;
  }

  /** At once, whatever it is doing. */
  kill(): void {
    if (!this.runs) return;
    process.kill(this.child?.pid ?? PIDS[this.at]!, "SIGKILL");
    this.runs = false;
  }

  /** Starts it where it was, if it is killed. */
  async restart(): Promise<void> {
    if (this.runs) return;
    const log = openSync(this.config.replace(/toml$/, "log"), "a");
    this.child = spawn(SYNCLINE_TEST_BIN, ["--config", this.config, "serve"], { stdio: ["ignore", log, log] });
    this.runs = true;
    await eventually("the instance is back", () => this.healthy(), 60_000);
  }

  /** Ends what `restart` started. */
  async end(): Promise<void> {
    if (!this.child || !this.runs) return;
    const gone = once(this.child, "exit");
    this.child.kill("SIGTERM");
    await gone;
  }

  private async healthy(): Promise<boolean> {
    const [code] = (await once(spawn(SYNCLINE_TEST_BIN, ["--config", this.config, "health"], { stdio: "ignore" }), "exit")) as [number | null];
    return code === 0;
  }
}
