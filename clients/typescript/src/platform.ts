/**
 * What the client takes from its surroundings: time, chance, sockets, HTTP and hints. Each can be replaced,
 * which is how tests run it; the defaults are the globals that browsers, React Native and Node share.
 */

/** Time and chance. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now(): number;
  /** Runs something later; the returned function takes it back. */
  after(ms: number, run: () => void): () => void;
  /** A number from 0 to below 1. */
  random(): number;
}

/** The part of a WebSocket that is used. */
export interface Socket {
  send(text: string): void;
  close(code?: number, reason?: string): void;
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: (() => void) | null;
}

/** Opens a WebSocket. */
export type OpenSocket = (url: string, protocols: string[]) => Socket;

/** The part of `fetch` that is used. */
export type Fetch = (
  url: string,
  init: { method: string; headers: Record<string, string>; body?: string; signal?: AbortSignal },
) => Promise<FetchResponse>;

/** The part of a response that is used. */
export interface FetchResponse {
  ok: boolean;
  status: number;
  headers: { get(name: string): string | null };
  text(): Promise<string>;
}

/** Something the surroundings say about the app or the network. It may be wrong: it is never more than a hint. */
export type Hint = "foreground" | "background" | "online" | "offline";

/** A source of hints; the returned function stops it. */
export type HintSource = (tell: (hint: Hint) => void) => () => void;

/** The clock of the system. */
export const systemClock: Clock = {
  now: () => Date.now(),
  after: (ms, run) => {
    // Longer delays overflow in every engine and fire at once.
    const timer = setTimeout(run, Math.min(ms, 0x7fffffff));
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
};

/** The global `WebSocket`. */
export const globalSocket: OpenSocket = (url, protocols) =>
  new WebSocket(url, protocols) as unknown as Socket;

/** The global `fetch`. */
export const globalFetch: Fetch = (url, init) => fetch(url, init);

/** Hints of a browser's tab. Without a DOM it says nothing. */
export const browserHints: HintSource = (tell) => {
  const { document: page, addEventListener: listen } = globalThis as Partial<Pick<Window, "document" | "addEventListener">>;
  if (!page || !listen) return () => {};
  const ended = new AbortController();
  const visible = () => tell(page.visibilityState === "hidden" ? "background" : "foreground");
  const network = ({ type }: { type: string }) => tell(type as Hint);
  // A page may begin in a tab that nobody looks at.
  visible();
  page.addEventListener("visibilitychange", visible, ended);
  listen("online", network, ended);
  listen("offline", network, ended);
  return () => ended.abort();
};

/** React Native's `AppState`, as far as it is used. */
export interface AppStateLike {
  /** `null` or `"unknown"` while the system has not told. */
  readonly currentState: string | null;
  addEventListener(type: "change", listener: (state: string) => void): { remove(): void };
}

/** `@react-native-community/netinfo`, as far as it is used. */
export interface NetInfoLike {
  addEventListener(listener: (state: { isConnected: boolean | null }) => void): () => void;
}

/** Hints of a React Native app, from the modules given. */
export function nativeHints(appState: AppStateLike, netInfo?: NetInfoLike): HintSource {
  return (tell) => {
    const took = (state: string | null) => {
      if (state === "active") tell("foreground");
      // `inactive` is a call or the app switcher: the app is still before its user's eyes.
      else if (state === "background") tell("background");
    };
    // The system may have started the app for a background task or a push.
    took(appState.currentState);
    const app = appState.addEventListener("change", took);
    const net = netInfo?.addEventListener(({ isConnected }) => {
      if (isConnected !== null) tell(isConnected ? "online" : "offline");
    });
    return () => {
      app.remove();
      net?.();
    };
  };
}
