/** The push log: what the hub made of notifications, as its `log` provider would send them. */

import type { Client } from "../src/index.js";
import { make, NAMES } from "./dom.js";

/** A push as the hub tells of it, to this page alone. */
interface Recent {
  nid: string;
  user_id: string;
  title: string;
  created_at: number;
  state: string;
  reason?: string | null;
  accepted_at?: number | null;
}

const EVERY_MS = 1000;

/** Shows the log in `list`, as long as the page is open. */
export function followPushes(client: Client, list: HTMLElement): void {
  const look = async () => {
    // A hub that is away is asked again.
    const pushes = await client.parts.http.get<Recent[]>("/demo/pushes").catch(() => undefined);
    if (pushes) list.replaceChildren(...pushes.slice(0, 5).map(line));
    setTimeout(() => void look(), EVERY_MS);
  };
  void look();
}

function line(push: Recent): HTMLElement {
  const item = make("li");
  const [kind, words] = outcome(push, NAMES[push.user_id] ?? push.user_id);
  item.append(make("time", "", new Date(push.created_at).toLocaleTimeString()), make("b", "", push.title), make("span", `outcome ${kind}`, words));
  return item;
}

function outcome({ state, reason, created_at, accepted_at }: Recent, who: string): [string, string] {
  if (state === "accepted" || state === "handed") {
    const after = accepted_at ? `, ${Math.max(0, (accepted_at - created_at) / 1000).toFixed(1)} s after` : "";
    return ["pushed", `pushed to ${who}'s phone${after}`];
  }
  if (state === "canceled") return ["canceled", `${reason ?? state}: no push`];
  if (["waiting", "claimed", "queued", "sending", "retry"].includes(state)) return ["waiting", `waiting for ${who}`];
  return ["ended", reason ? `${state}: ${reason}` : state];
}
