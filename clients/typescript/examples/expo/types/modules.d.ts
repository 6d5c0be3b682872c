/**
 * Of Expo's and React Native's types, what this app uses, so that it can be checked without 420 MB of modules.
 * With the modules installed, `npx tsc` checks it against their own.
 */

declare const process: { env: Record<string, string | undefined> };

declare module "expo" {
  export function registerRootComponent(component: () => import("react").ReactNode): void;
}

declare module "expo-application" {
  export const nativeApplicationVersion: string | null;
}

declare module "expo-background-task" {
  export enum BackgroundTaskResult {
    Success = 1,
    Failed = 2,
  }
  export function registerTaskAsync(name: string, options?: { minimumInterval?: number }): Promise<void>;
  export function unregisterTaskAsync(name: string): Promise<void>;
}

declare module "expo-constants" {
  const Constants: { expoConfig: { extra?: { [key: string]: any } } | null };
  export default Constants;
}

declare module "expo-device" {
  export const modelName: string | null;
}

declare module "expo-localization" {
  export function getLocales(): [{ languageTag: string }, ...{ languageTag: string }[]];
  export function getCalendars(): [{ timeZone: string | null }, ...{ timeZone: string | null }[]];
}

declare module "expo-network" {
  export function getNetworkStateAsync(): Promise<{ isInternetReachable?: boolean }>;
}

declare module "expo-notifications" {
  export interface DevicePushToken {
    type: string;
    data: unknown;
  }
  interface Notification {
    request: { identifier: string; content: { title: string | null; data?: Record<string, unknown> } };
  }
  interface EventSubscription {
    remove(): void;
  }
  interface NotificationBehavior {
    shouldShowBanner: boolean;
    shouldShowList: boolean;
    shouldPlaySound: boolean;
    shouldSetBadge: boolean;
  }
  interface Permissions {
    granted: boolean;
    canAskAgain: boolean;
  }
  export function getPermissionsAsync(): Promise<Permissions>;
  export function requestPermissionsAsync(): Promise<Permissions>;
  export function getExpoPushTokenAsync(options?: { projectId?: string; devicePushToken?: DevicePushToken }): Promise<{ type: "expo"; data: string }>;
  export function addPushTokenListener(listener: (token: DevicePushToken) => void): EventSubscription;
  export function addNotificationReceivedListener(listener: (notification: Notification) => void): EventSubscription;
  export function addNotificationResponseReceivedListener(listener: (response: { notification: Notification }) => void): EventSubscription;
  export function getLastNotificationResponse(): { notification: Notification } | null;
  export function setNotificationHandler(handler: { handleNotification(notification: Notification): Promise<NotificationBehavior> } | null): void;
  export function setNotificationChannelAsync(id: string, channel: { name: string | null; importance: number }): Promise<unknown>;
  export function setBadgeCountAsync(count: number): Promise<boolean>;
}

declare module "expo-sqlite" {
  export interface SQLiteDatabase {
    execAsync(sql: string): Promise<void>;
    runAsync(sql: string, params: (string | null)[]): Promise<unknown>;
    getAllAsync<T>(sql: string, params: (string | null)[]): Promise<T[]>;
    withExclusiveTransactionAsync(task: (transaction: SQLiteDatabase) => Promise<void>): Promise<void>;
    withTransactionAsync(task: () => Promise<void>): Promise<void>;
    closeAsync(): Promise<void>;
  }
  export function openDatabaseAsync(name: string): Promise<SQLiteDatabase>;
}

declare module "expo-task-manager" {
  export function defineTask(name: string, run: () => Promise<unknown>): void;
}

declare module "react-native" {
  import type { ComponentType, ReactElement, ReactNode } from "react";
  type Style = { [property: string]: string | number };
  interface Box {
    style?: Style | (Style | false)[];
    children?: ReactNode;
  }
  export const AppState: { readonly currentState: "active" | "background" | "inactive" | "unknown" | "extension"; addEventListener(type: "change", listener: (state: string) => void): { remove(): void } };
  export const Linking: { openURL(url: string): Promise<unknown> };
  export const Platform: { OS: string };
  export const StyleSheet: { create<T extends Record<string, Style>>(styles: T): T };
  export const SafeAreaView: ComponentType<Box>;
  export const View: ComponentType<Box>;
  export const Text: ComponentType<Box>;
  export const Pressable: ComponentType<Box & { onPress?: () => void }>;
  export const Button: ComponentType<{ title: string; onPress?: () => void }>;
  export const TextInput: ComponentType<{
    style?: Style;
    value?: string;
    defaultValue?: string;
    placeholder?: string;
    onChangeText?: (text: string) => void;
    onSubmitEditing?: () => void;
    onEndEditing?: (event: { nativeEvent: { text: string } }) => void;
  }>;
  export function FlatList<Item>(props: {
    data: readonly Item[];
    keyExtractor: (item: Item) => string;
    renderItem: (row: { item: Item }) => ReactElement;
  }): ReactNode;
}
