/** The one client of the app, on a database of its own for each user. */

import { createClient, nativeHints, openSqlite, type Client } from "@syncline/client";
import { openDatabaseAsync } from "expo-sqlite";
import { AppState } from "react-native";

export const PROJECT = "demo";

/** A task as the app uses it. */
export interface Task {
  title: string;
  done: boolean;
}

const url = process.env.EXPO_PUBLIC_SYNCLINE_URL ?? "http://127.0.0.1:8080";
/** For trying it out: an app of yours knows its user from the login, and asks its own backend for tokens. */
const user = process.env.EXPO_PUBLIC_SYNCLINE_USER ?? "ana";
const getToken = () => process.env.EXPO_PUBLIC_SYNCLINE_TOKEN ?? "";

let client: Promise<Client> | undefined;

/** The client, made once: a database belongs to one client at a time. */
export function openClient(): Promise<Client> {
  client ??= createClient({
    url,
    getToken,
    user,
    storage: openDatabaseAsync(`syncline-${user}.db`).then(openSqlite),
    hints: nativeHints(AppState),
  });
  return client;
}
