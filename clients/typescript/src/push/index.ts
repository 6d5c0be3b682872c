/** `@syncline/client/push`: pushes and the inbox. */

export { openPush, type Push, type PushOptions } from "./push.js";
export type { DeviceInfo } from "./device.js";
export { LinkError, type PushData } from "./links.js";
export type { Inbox, InboxItem, InboxPage, InboxQuery, InboxState } from "./inbox.js";
export {
  type ApplicationLike,
  type DeviceLike,
  type LocalizationLike,
  type NotificationLike,
  type NotificationsLike,
  registerPush,
  type RegisterPushOptions,
} from "./expo.js";
