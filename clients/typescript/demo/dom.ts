/** What the parts of the demo page share. */

/** The people on the page. */
export const NAMES: Record<string, string> = { ana: "Ana", bo: "Bo" };

/** A new element. */
export function make<Tag extends keyof HTMLElementTagNameMap>(tag: Tag, className = "", text = ""): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** A person's letter; their name stands beside it, or is said for all who are shown. */
export function avatar(user: string): HTMLElement {
  const letter = make("span", `avatar ${user}`, (NAMES[user] ?? user)[0]);
  letter.ariaHidden = "true";
  return letter;
}
