// Bundles the tests named (all by default) and runs them with Node's own runner.
//   node scripts/run-tests.mjs connection sync
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../", import.meta.url));
const names = process.argv.slice(2);
const files = readdirSync(`${root}test`).filter((name) => /\.test\.tsx?$/.test(name));
const chosen = names.length === 0 ? files : files.filter((file) => names.includes(file.replace(/\.test\.tsx?$/, "")));
if (chosen.length === 0) throw new Error(`no test is named ${names.join(" or ")}`);
const outdir = `${root}build/test-${process.pid}`;
await build({
  entryPoints: chosen.map((file) => `${root}test/${file}`),
  outdir,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  jsx: "automatic",
  packages: "external",
  sourcemap: "inline",
  logLevel: "warning",
});
const built = chosen.map((file) => `${outdir}/${file.replace(/\.tsx?$/, ".mjs")}`);
const run = spawnSync(process.execPath, ["--enable-source-maps", "--import", `${root}test/support/strict.mjs`, "--test", ...built], { stdio: "inherit", cwd: root });
rmSync(outdir, { recursive: true });
process.exit(run.status ?? 1);
