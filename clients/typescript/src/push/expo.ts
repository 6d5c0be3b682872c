/**
 * Pushes of an Expo app. The modules are passed in, so that this file needs none of them: `expo-notifications`,
 * and for what a device says of itself `expo-device`, `expo-localization` and `expo-application`.
 */

import type { Client } from "../client.js";
import { SynclineError } from "../errors.js";
import type { DeviceInfo } from "./device.js";
import { openPush, type Push, type PushOptions } from "./push.js";

/** A notification of `expo-notifications`, as far as it is used. */
export interface NotificationLike {
  request: { content: { data?: unknown } };
}

interface Subscription {
  remove(): void;
}

interface Behaviour {
  shouldShowBanner: boolean;
  shouldShowList: boolean;
  shouldPlaySound: boolean;
  shouldSetBadge: boolean;
}

/** `expo-notifications`, as far as it is used. `DeviceToken` is the platform's own token. */
export interface NotificationsLike<DeviceToken = never> {
  getPermissionsAsync(): Promise<{ granted: boolean; canAskAgain: boolean }>;
  requestPermissionsAsync(): Promise<{ granted: boolean }>;
  getExpoPushTokenAsync(options: { projectId?: string; devicePushToken?: DeviceToken }): Promise<{ data: string }>;
  addPushTokenListener(listener: (token: DeviceToken) => void): Subscription;
  addNotificationReceivedListener(listener: (notification: NotificationLike) => void): Subscription;
  addNotificationResponseReceivedListener(listener: (response: { notification: NotificationLike }) => void): Subscription;
  getLastNotificationResponse(): { notification: NotificationLike } | null;
  setNotificationHandler(handler: { handleNotification(notification: NotificationLike): Promise<Behaviour> } | null): void;
  setNotificationChannelAsync(id: string, channel: { name: string; importance: number }): Promise<unknown>;
  setBadgeCountAsync(count: number): Promise<unknown>;
}

/** `expo-device`, as far as it is used. */
export interface DeviceLike {
  modelName: string | null;
}

/** `expo-localization`, as far as it is used. */
export interface LocalizationLike {
  getLocales(): { languageTag: string }[];
  getCalendars(): { timeZone: string | null }[];
}

/** `expo-application`, as far as it is used. */
export interface ApplicationLike {
  nativeApplicationVersion: string | null;
}

/** What `registerPush` needs. */
export interface RegisterPushOptions<DeviceToken> extends PushOptions {
  notifications: NotificationsLike<DeviceToken>;
  device?: DeviceLike;
  localization?: LocalizationLike;
  application?: ApplicationLike;
  /** `Platform.OS` of React Native. */
  platform: string;
  /** The project's id at Expo. */
  projectId?: string;
  /** The names of the lanes' channels in Android's settings. */
  channels?: Record<"critical" | "high" | "normal", string>;
}

/** `AndroidImportance` of the lanes' channels. */
const IMPORTANCE = { critical: 7, high: 6, normal: 5 };
const CHANNELS = { critical: "Emergencies", high: "Important", normal: "News" };

/**
 * Registers the app's device for pushes, asking the user first, and takes what comes. Call it at each start of the
 * app, before `connect`. If the user does not want pushes, all but the registration works. A token that Expo does not
 * give now is asked for again at the next call.
 */
export async function registerPush<DeviceToken>(client: Client, options: RegisterPushOptions<DeviceToken>): Promise<Push> {
  const { notifications } = options;
  const setBadge = options.setBadge ?? ((count: number) => notifications.setBadgeCountAsync(count));
  const push = await openPush(client, { ...options, setBadge });
  listen(push, options);
  // The user may have changed the language, or be in another time zone.
  push.endWith(client.parts.connection.events.on("open", () => void push.update(about(options)).catch(push.fail)));
  const last = notifications.getLastNotificationResponse();
  if (last) push.opened(last.notification.request.content.data).catch(push.fail);
  try {
    if (options.platform === "android") await makeChannels(options);
    if (await allowed(notifications)) await register(push, options);
  } catch (error) {
    push.fail(noToken(error));
  }
  return push;
}

function listen<DeviceToken>(push: Push, options: RegisterPushOptions<DeviceToken>): void {
  const { notifications } = options;
  notifications.setNotificationHandler({
    handleNotification: async ({ request }) => {
      // What was shown live is not shown again.
      const show = push.first(request.content.data);
      return { shouldShowBanner: show, shouldShowList: show, shouldPlaySound: show, shouldSetBadge: false };
    },
  });
  const data = ({ request }: NotificationLike) => request.content.data;
  const subscriptions = [
    notifications.addNotificationReceivedListener((came) => void push.received(data(came)).catch(push.fail)),
    notifications.addNotificationResponseReceivedListener(({ notification }) => void push.opened(data(notification)).catch(push.fail)),
    notifications.addPushTokenListener((token) => void register(push, options, token).catch((error) => push.fail(noToken(error)))),
  ];
  push.endWith(() => {
    for (const subscription of subscriptions) subscription.remove();
    notifications.setNotificationHandler(null);
  });
}

const noToken = (cause: unknown) => new SynclineError(`this device got no push token: ${String(cause)}`, { cause });

/** A push of a channel that is not there is not shown. */
async function makeChannels<DeviceToken>({ notifications, channels = CHANNELS }: RegisterPushOptions<DeviceToken>): Promise<void> {
  for (const lane of ["critical", "high", "normal"] as const) {
    await notifications.setNotificationChannelAsync(lane, { name: channels[lane], importance: IMPORTANCE[lane] });
  }
}

async function allowed<DeviceToken>(notifications: NotificationsLike<DeviceToken>): Promise<boolean> {
  const { granted, canAskAgain } = await notifications.getPermissionsAsync();
  return granted || (canAskAgain && (await notifications.requestPermissionsAsync()).granted);
}

async function register<DeviceToken>(push: Push, options: RegisterPushOptions<DeviceToken>, rotated?: DeviceToken): Promise<void> {
  const { notifications, projectId } = options;
  const { data: token } = await notifications.getExpoPushTokenAsync({
    ...(projectId === undefined ? {} : { projectId }),
    ...(rotated === undefined ? {} : { devicePushToken: rotated }),
  });
  await push.register({ token, ...about(options) });
}

/** What the device says of itself now. */
function about<DeviceToken>({ device, localization, application, platform }: RegisterPushOptions<DeviceToken>): Omit<DeviceInfo, "token"> {
  return {
    platform: platform as DeviceInfo["platform"],
    locale: localization?.getLocales()[0]?.languageTag,
    tz: localization?.getCalendars()[0]?.timeZone ?? undefined,
    appVersion: application?.nativeApplicationVersion ?? undefined,
    model: device?.modelName ?? undefined,
  };
}
