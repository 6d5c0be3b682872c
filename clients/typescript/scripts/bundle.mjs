// The demo page as the hub serves it, and the size of the core.
//   node scripts/bundle.mjs          writes src/net/demo/ of the hub
//   node scripts/bundle.mjs --check  fails if it is not current, or the core is too large
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const check = process.argv.includes("--check");
const root = fileURLToPath(new URL("../", import.meta.url));
const served = fileURLToPath(new URL("../../../src/net/demo/", import.meta.url));
const CORE_BYTES = 15_000;

const bundle = async (options) => {
  const { outputFiles } = await build({
    absWorkingDir: root,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    write: false,
    logLevel: "warning",
    ...options,
  });
  return outputFiles[0].text;
};

const files = {
  "demo.js": await bundle({ entryPoints: ["demo/demo.ts"] }),
  "demo.css": await readFile(`${root}demo/demo.css`, "utf8"),
  "index.html": await readFile(`${root}demo/index.html`, "utf8"),
};
for (const [name, text] of Object.entries(files)) {
  if (!check) await writeFile(served + name, text);
  else if ((await readFile(served + name, "utf8").catch(() => "")) !== text) {
    throw new Error(`src/net/demo/${name} is not current: run \`npm run build\` in clients/typescript`);
  }
}
const core = await bundle({ stdin: { contents: 'export { createClient } from "./src/index.ts"', resolveDir: root } });
const bytes = gzipSync(core, { level: 9 }).length;
console.log(`the core is ${bytes} bytes, minified and gzipped`);
if (bytes > CORE_BYTES) throw new Error(`the core may have ${CORE_BYTES}`);
