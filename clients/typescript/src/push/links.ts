/** What a push brings, and where its link may lead. Pure: a push comes from outside, so nothing of it is taken on trust. */

import { SynclineError } from "../errors.js";

/** The data of a push, as the hub sends it. */
export interface PushData {
  /** The notification. */
  nid: string;
  /** What the push is reported back with. */
  report?: string;
  project?: string;
  link?: string;
  /** The writer's own data for the app. */
  data?: Record<string, unknown>;
}

/** A push had a link that the app did not allow. It was not followed. */
export class LinkError extends SynclineError {
  override name = "LinkError";
}

/** Characters of a name or a signature. */
const SHORT = 200;
const LINK = 2048;

/** A scheme, and behind it something without blanks and control characters. */
const FORM = /^([a-z][a-z0-9+.-]*):[^\s\p{Cc}]+$/iu;

/** Reads the data of a push; `undefined` if the hub did not send it. */
export function pushData(data: unknown): PushData | undefined {
  if (typeof data !== "object" || data === null) return undefined;
  const { nid, report, project, link, data: own } = data as Record<string, unknown>;
  if (!short(nid)) return undefined;
  return {
    nid,
    ...(short(report) ? { report } : {}),
    ...(short(project) ? { project } : {}),
    ...(typeof link === "string" ? { link } : {}),
    ...(typeof own === "object" && own !== null ? { data: own as Record<string, unknown> } : {}),
  };
}

/** The link, if its scheme is one of `schemes`; throws a `LinkError` if not. */
export function allowedLink(link: string, schemes: readonly string[]): string {
  const scheme = link.length > LINK ? undefined : FORM.exec(link)?.[1]?.toLowerCase();
  if (scheme === undefined) throw new LinkError("the push has a link that is none");
  if (!schemes.some((allowed) => allowed.toLowerCase() === scheme)) {
    throw new LinkError(`the push has a link of the scheme \`${scheme}\`: name it in \`schemes\` if it is yours`);
  }
  return link;
}

const short = (value: unknown): value is string => typeof value === "string" && value.length > 0 && value.length <= SHORT;
