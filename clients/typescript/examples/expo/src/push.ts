/** Pushes: this device registered, what was opened shown. */

import type { Client } from "@syncline/client";
import { type Push, registerPush } from "@syncline/client/push";
import * as application from "expo-application";
import Constants from "expo-constants";
import * as device from "expo-device";
import * as localization from "expo-localization";
import * as notifications from "expo-notifications";
import { Linking, Platform } from "react-native";

const projectId: unknown = Constants.expoConfig?.extra?.["eas"]?.projectId;

/** Starts pushes; `tell` hears what did not work. */
export function startPush(client: Client, tell: (problem: string) => void): Promise<Push> {
  return registerPush(client, {
    notifications,
    device,
    localization,
    application,
    platform: Platform.OS,
    ...(typeof projectId === "string" ? { projectId } : {}),
    schemes: ["synclinetasks", "https"],
    onLink: (link) => void Linking.openURL(link),
    onError: (error) => tell(error.message),
  });
}
