/** Sync while the app is closed: the system runs it now and then. Loaded with the app's entry, before any screen. */

import { registerBackgroundSync } from "@syncline/client/expo";
import * as backgroundTask from "expo-background-task";
import * as network from "expo-network";
import * as taskManager from "expo-task-manager";
import { openClient } from "./sync";

registerBackgroundSync({ taskManager, backgroundTask, network, client: openClient }).catch((error: unknown) => {
  // Not everywhere: neither Expo Go nor iOS simulators run background tasks.
  console.warn("no background sync", error);
});
