/** UUIDs of version 7: they sort by when they were made, which databases like. */

import type { Clock } from "./platform.js";

/** A fresh one. Chance comes from `crypto` where there is one, else from the clock's `random`. */
export function uuid(clock: Clock): string {
  const bytes = new Uint8Array(10);
  const crypto = (globalThis as { crypto?: { getRandomValues?(bytes: Uint8Array): unknown } }).crypto;
  if (!crypto?.getRandomValues?.(bytes)) bytes.forEach((_, at) => (bytes[at] = clock.random() * 256));
  bytes[0] = (bytes[0]! & 0x0f) | 0x70;
  bytes[2] = (bytes[2]! & 0x3f) | 0x80;
  const time = clock.now().toString(16).padStart(12, "0");
  const hex = time + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
