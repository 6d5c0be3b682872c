/** The browser of the tests. */

import { existsSync } from "node:fs";

const PLACES = [process.env["SYNCLINE_TEST_CHROMIUM"], "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const found = PLACES.find((path) => path !== undefined && existsSync(path));
if (found === undefined) throw new Error("Chromium is not installed: name it in SYNCLINE_TEST_CHROMIUM");

/** Its program. */
export const CHROMIUM: string = found;
