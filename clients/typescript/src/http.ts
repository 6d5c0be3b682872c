/** The hub over HTTP: what needs no socket, for the background and for reading what is too much for frames. */

import { DisconnectedError, RequestError } from "./errors.js";
import type { Clock, Fetch, FetchResponse } from "./platform.js";
import type { TokenKeeper } from "./token.js";

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
    return this.tokens.use(async (token) => {
      const answer = await this.once<T>(path, body, within, token);
      this.tokens.accepted();
      return answer;
    });
  }

  /** The same as it is: with the token given, or without one. */
  async once<T>(path: string, body?: string, within = ANSWER_MS, token?: string): Promise<T> {
    const headers: Record<string, string> = {};
    if (token !== undefined) headers["authorization"] = `Bearer ${token}`;
    if (this.owner.user !== undefined) headers["syncline-user"] = encodeURIComponent(this.owner.user);
    if (body !== undefined) headers["content-type"] = "application/json";
    const abort = new AbortController();
    const stop = this.clock.after(within, () => abort.abort());
    let response: FetchResponse;
    let text: string;
    try {
      const { signal } = abort;
      const init = body === undefined ? { method: "GET", headers, signal } : { method: "POST", headers, signal, body };
      response = await this.fetch(this.base + path, init);
      text = await response.text();
      if (response.ok) return (text === "" ? undefined : JSON.parse(text)) as T;
    } catch (error) {
      throw new DisconnectedError(`the hub cannot be reached: ${error}`);
    } finally {
      stop();
    }
    throw problem(response, text);
  }
}

/** Problem details as an error. What is no word of the hub's, as a proxy's page, counts as a hub that is not there. */
function problem({ status, headers }: FetchResponse, text: string): RequestError {
  let details: { code?: unknown; detail?: string; extra?: unknown } = {};
  try {
    details = (JSON.parse(text) as typeof details | null) ?? {};
  } catch {
    // Not from the hub.
  }
  const code = typeof details.code === "string" ? details.code : status === 429 ? "rate_limited" : status === 413 ? "limit_exceeded" : "unavailable";
  const seconds = parseFloat(headers.get("retry-after") ?? "");
  const wait = seconds >= 0 ? seconds * 1000 : undefined;
  return new RequestError(code, details.detail ?? `status ${status}`, wait, details.extra);
}
