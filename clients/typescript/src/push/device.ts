/**
 * This installation's push token at the hub. It is told over the socket, because only a session says whose it is:
 * with the first session after each start, whenever something changed, and once a day, should the hub have given the token
 * up meanwhile.
 */

import { Retry } from "../backoff.js";
import type { Client, Parts } from "../client.js";
import { DisconnectedError, RequestError } from "../errors.js";
import type { PushDeviceFrame } from "../protocol/client.gen.js";

/** What a device says of itself. */
export interface DeviceInfo {
  /** The Expo push token, `ExponentPushToken[…]`. */
  token: string;
  platform: "ios" | "android" | "web";
  /** The language, e.g. `pt-BR`. */
  locale?: string | undefined;
  /** The time zone, e.g. `America/Sao_Paulo`. */
  tz?: string | undefined;
  appVersion?: string | undefined;
  model?: string | undefined;
}

/** What is kept over restarts. */
interface Kept {
  /** What is to be registered; without it the installation is to be forgotten. */
  wanted?: DeviceInfo;
  /** Whether the hub may know of it. */
  done?: true;
}

const AGAIN_MS = 86_400_000;

/** Keeps the hub's knowledge of this device right. */
export class Registration {
  /** What the hub was told since the app started, and when: before that, another user may have taken the token over. */
  private told: { text: string; at: number } | undefined;
  private refused: string | undefined;
  private last: Promise<void> = Promise.resolve();
  private readonly retry: Retry;
  private readonly parts: Parts;

  private constructor(
    private readonly client: Client,
    private kept: Kept,
    private readonly fail: (error: unknown) => void,
  ) {
    this.parts = client.parts;
    this.retry = new Retry(this.parts.clock, () => void this.settle());
  }

  /** Reads what is known from the last time. */
  static async open(client: Client, fail: (error: unknown) => void): Promise<Registration> {
    return new Registration(client, (await client.parts.store.get<Kept>("meta", "push")) ?? {}, fail);
  }

  /** Wants to be registered like this; resolves when it is stored, and told if there is a session. */
  async want(device: DeviceInfo): Promise<void> {
    if (JSON.stringify(device) !== JSON.stringify(this.kept.wanted)) {
      await this.keep({ ...this.kept, wanted: device });
    }
    await this.settle();
  }

  /** Is another than it was, if it wants to be registered at all. */
  async update(about: Omit<DeviceInfo, "token">): Promise<void> {
    if (this.kept.wanted) await this.want({ ...this.kept.wanted, ...about });
  }

  /**
   * Wants to be forgotten, before the user logs out. Fails if the hub could not be told; it is then told in the
   * user's next session, and by whoever registers this device next.
   */
  async leave(): Promise<void> {
    if (!this.kept.wanted && !this.kept.done) return;
    const { done } = this.kept;
    await this.keep(done ? { done } : {});
    await this.next(() => this.forget());
  }

  /** Tells the hub what it does not know. */
  settle(): Promise<void> {
    return this.next(() => this.tell());
  }

  stop(): void {
    this.retry.stop();
  }

  /** One after another: two at once might arrive in the other order. */
  private next(work: () => Promise<void>): Promise<void> {
    const done = this.last.then(work);
    this.last = done.catch(() => {});
    return done;
  }

  private async tell(): Promise<void> {
    this.retry.stop();
    const { wanted, done } = this.kept;
    if (!this.parts.connection.hello || (!wanted && !done)) return;
    const text = JSON.stringify(wanted ?? null);
    const now = this.parts.clock.now();
    const known = this.told?.text === text && now - this.told.at < AGAIN_MS;
    if (known || this.refused === text) return;
    try {
      if (!wanted) return await this.forget();
      await this.ask(frame(wanted));
      if (!done) await this.keep({ ...this.kept, done: true });
      this.told = { text, at: now };
      this.retry.worked();
    } catch (error) {
      this.failed(error, text);
    }
  }

  private async forget(): Promise<void> {
    // Whatever becomes of it: the same registration is not known any more.
    this.told = undefined;
    if (this.client.status.get().connection === "online") await this.ask({ type: "push_device", provider: "expo", token: null });
    else {
      const body = { client: this.client.clientId, provider: "expo", token: null };
      await this.parts.http.post("/v1/push/devices", JSON.stringify(body));
    }
    await this.keep({});
  }

  private async ask(frame: Omit<PushDeviceFrame, "id">): Promise<void> {
    await this.parts.connection.ask(frame);
  }

  private failed(error: unknown, what: string): void {
    // With the next session it is tried again.
    if (error instanceof DisconnectedError) return;
    if (error instanceof RequestError && error.retryable) {
      this.retry.after(error);
      return;
    }
    this.refused = what;
    this.fail(error);
  }

  private async keep(kept: Kept): Promise<void> {
    await this.parts.store.commit([{ table: "meta", key: "push", value: kept }]);
    this.kept = kept;
  }
}

function frame({ token, platform, locale, tz, appVersion, model }: DeviceInfo): Omit<PushDeviceFrame, "id"> {
  const said = { locale, tz, app_version: appVersion, model };
  const known = Object.entries(said).filter(([, value]) => value !== undefined);
  return { type: "push_device", provider: "expo", token, platform, ...Object.fromEntries(known) };
}
