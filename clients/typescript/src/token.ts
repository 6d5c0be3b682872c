/** The token in use: fetched when there is none, renewed when it ends, given up when a fresh one is refused. */

import { AuthError, DisconnectedError, RequestError } from "./errors.js";
import type { Clock } from "./platform.js";

/**
 * Why a token is asked for. `initial`: the one the app has will do. Else the last one is of no use any more:
 * get another. Throw an `AuthError` if the user has to log in again; any other error is tried again later.
 */
export type TokenReason = "initial" | "expired" | "revoked";

/** What codes say of a token; with `unauthorized`, another would fare no better. */
const ABOUT_TOKENS: Record<string, TokenReason | undefined> = { token_expired: "expired", token_revoked: "revoked", unauthorized: undefined };

/**
 * How long a token that was fetched instead of another counts as fresh. One that is refused later has aged while the
 * hub was out of reach, or the app asleep: that says nothing about the next.
 */
const FRESH_MS = 30_000;

/** How long fetching a token may take. */
const FETCH_MS = 30_000;

/** Fetches a token. If that takes half a minute, it is given up and tried again later. */
export type GetToken = (reason: TokenReason) => Promise<string> | string;

/** Holds the token of one client for its socket and its HTTP requests. */
export class TokenKeeper {
  #token: string | undefined;
  #reason: TokenReason = "initial";
  #expiresAt = Infinity;
  /** Until when a refusal means that another would fare no better; over once the hub has taken it. */
  #freshUntil = 0;
  #fetching: Promise<string> | undefined;

  constructor(
    private readonly getToken: GetToken,
    private readonly clock: Clock,
  ) {}

  /** The token, from memory if it is good still. */
  async get(): Promise<string> {
    if (this.#token !== undefined && this.clock.now() >= this.#expiresAt) this.doubt("expired");
    return this.#token ?? (await this.#fetch());
  }

  /** Another token, before the old one ends. */
  renew(reason: TokenReason): Promise<string> {
    this.#reason = reason;
    return this.#fetch();
  }

  /** The hub took it, for so many seconds if it says. */
  accepted(ttl?: number): void {
    this.#freshUntil = 0;
    if (ttl !== undefined) this.#expiresAt = this.clock.now() + ttl * 1000;
  }

  /**
   * The token is of no use. False if it was a fresh one that no hub ever took: another would fare no better.
   */
  doubt(reason: TokenReason): boolean {
    const worthwhile = this.clock.now() >= this.#freshUntil;
    this.#token = undefined;
    this.#reason = reason;
    this.#freshUntil = 0;
    this.#expiresAt = Infinity;
    return worthwhile;
  }

  /** Does what needs a token, again with another while that is refused. A fresh one that is refused ends it. */
  async use<T>(work: (token: string) => Promise<T>): Promise<T> {
    for (;;) {
      const token = await this.get();
      try {
        return await work(token);
      } catch (error) {
        if (!(error instanceof RequestError && error.code in ABOUT_TOKENS)) throw error;
        // Somebody else may have replaced it meanwhile.
        if (this.#token !== token) continue;
        const reason = ABOUT_TOKENS[error.code];
        // Whoever has to log in is asked for another one all the same.
        if (!this.doubt(reason ?? "revoked") || !reason) throw new AuthError(error.message);
      }
    }
  }

  #fetch(): Promise<string> {
    let stop = () => {};
    const late = () =>
      new Promise<never>((_, reject) => {
        stop = this.clock.after(FETCH_MS, () => reject(new DisconnectedError("getToken does not answer")));
      });
    this.#fetching ??= Promise.race([Promise.resolve().then(() => this.getToken(this.#reason)), late()])
      .then((token) => {
        this.#token = token;
        this.#freshUntil = this.#reason === "initial" ? 0 : this.clock.now() + FRESH_MS;
        this.#expiresAt = Infinity;
        return token;
      })
      .finally(() => {
        stop();
        this.#fetching = undefined;
      });
    return this.#fetching;
  }
}
