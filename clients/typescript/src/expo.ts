/**
 * `@syncline/client/expo`: sync in the background of an Expo app. The modules are passed in, so that this file
 * needs none of them: `expo-task-manager`, `expo-background-task`, and for the network `expo-network`.
 */

import type { Client } from "./client.js";
import { cleanUp, syncNow } from "./sync.js";

/** `expo-task-manager`, as far as it is used. */
export interface TaskManagerLike {
  defineTask(name: string, run: () => Promise<unknown>): void;
}

/** `expo-background-task`, as far as it is used. */
export interface BackgroundTaskLike {
  registerTaskAsync(name: string, options: { minimumInterval: number }): Promise<void>;
  unregisterTaskAsync(name: string): Promise<void>;
  BackgroundTaskResult: { Success: unknown; Failed: unknown };
}

/** `expo-network`, as far as it is used. */
export interface NetworkLike {
  getNetworkStateAsync(): Promise<{ isInternetReachable?: boolean | undefined }>;
}

/** What a background sync needs. */
export interface BackgroundSyncOptions {
  taskManager: TaskManagerLike;
  backgroundTask: BackgroundTaskLike;
  network?: NetworkLike;
  /** Makes the client, or returns the one that runs: the system may start the app just for this. */
  client: () => Promise<Client>;
  /** The task's name. */
  name?: string;
  /** How often at most, minutes; the system decides when. */
  minutes?: number;
  /** How long one sync may take. */
  deadlineMs?: number;
}

/**
 * Lets the system run a sync now and then. Call it where the app's module is loaded, not in a component: the task
 * has to be known when the system starts the app without a screen. The returned function ends it.
 */
export async function registerBackgroundSync(options: BackgroundSyncOptions): Promise<() => Promise<void>> {
  const { taskManager, backgroundTask, network, name = "syncline-sync", minutes = 15, deadlineMs = 20_000 } = options;
  const { Success, Failed } = backgroundTask.BackgroundTaskResult;
  taskManager.defineTask(name, async () => {
    try {
      const state = await network?.getNetworkStateAsync();
      // Nothing to be had, and nothing wrong: the system would put off a task that fails.
      if (state?.isInternetReachable === false) return Success;
      const client = await options.client();
      // Room is made also where the hub cannot be reached, or nothing more can be stored.
      const { error } = await syncNow(client, { deadlineMs }).finally(() => cleanUp(client));
      return error === undefined ? Success : Failed;
    } catch {
      return Failed;
    }
  });
  await backgroundTask.registerTaskAsync(name, { minimumInterval: minutes });
  return () => backgroundTask.unregisterTaskAsync(name);
}
