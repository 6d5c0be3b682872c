/** The hub over HTTP: what needs no socket, for the background and for reading what is too much for frames. */

import { DisconnectedError, RequestError } from "./errors.js";
import type { Clock, Fetch } from "./platform.js";
import { isAboutToken, type TokenKeeper } from "./token.js";

/** How long an answer may take, unless whoever asks says otherwise. */
const ANSWER_MS = 30_000;

/** Calls of the hub's HTTP endpoints. */
export class Http {
  constructor(
    private readonly base: string,
    private readonly fetch: Fetch,
    private readonly tokens: TokenKeeper,
    private readonly clock: Clock,
    /** As whose requests are made: the hub refuses them with another's token. */
    private readonly owner: { user: string | undefined },
  ) {}

  /** Reads JSON. */
  get<T>(path: string, within?: number): Promise<T> {
    return this.post(path, undefined, within);
  }

  /** Sends a text that is JSON already. An expired token is replaced once. */
  async post<T>(path: string, body?: string, within?: number): Promise<T> {
    const token = await this.tokens.get();
    const ask = async (shown: string) => {
      const answer = await this.once<T>(path, body, within, shown);
      this.tokens.worked();
      return answer;
    };
    try {
      return await ask(token);
    } catch (error) {
      if (!(error instanceof RequestError) || !isAboutToken(error.code)) throw error;
      return ask(await this.tokens.replace(token, error.code, error.message));
    }
  }

  /** The same as it is: with the token given, or without one. */
  async once<T>(path: string, body?: string, within = ANSWER_MS, token?: string): Promise<T> {
    const headers: Record<string, string> = {};
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    if (this.owner.user !== undefined) headers["syncline-user"] = encodeURIComponent(this.owner.user);
    if (body !== undefined) headers["content-type"] = "application/json";
    const abort = new AbortController();
    const stop = this.clock.after(within, () => abort.abort());
    try {
      const { signal } = abort;
      const init = body === undefined ? { method: "GET", headers, signal } : { method: "POST", headers, signal, body };
      const response = await this.fetch(this.base + path, init).catch((error: unknown) => {
        throw new DisconnectedError(`the hub cannot be reached: ${error}`);
      });
      const text = await response.text().catch((error: unknown) => {
        throw new DisconnectedError(`the answer broke off: ${error}`);
      });
      if (!response.ok) throw problem(response.status, text, response.headers.get("retry-after"));
      return (text === "" ? undefined : parsed(text)) as T;
    } finally {
      stop();
    }
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new DisconnectedError("the answer broke off");
  }
}

/** Problem details as an error; a proxy's page counts as a hub that is not there. */
function problem(status: number, text: string, retryAfter: string | null): RequestError {
  let details: { code?: string; detail?: string; extra?: unknown } = {};
  try {
    details = JSON.parse(text) as typeof details;
  } catch {
    // Not from the hub.
  }
  const code = details.code ?? (status === 429 ? "rate_limited" : status >= 500 ? "unavailable" : "bad_request");
  const seconds = Number(retryAfter);
  const wait = retryAfter !== null && Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return new RequestError(code, details.detail ?? `status ${status}`, wait, details.extra);
}
