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
