// TypeScript types from the schemas that the hub's tests write.
//   node scripts/types.mjs          writes src/protocol/*.gen.ts
//   node scripts/types.mjs --check  fails if they are not current
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { compile } from "json-schema-to-typescript";

const KINDS = new Set(["type", "$ref", "oneOf", "anyOf", "allOf", "enum", "const", "properties"]);
const check = process.argv.includes("--check");
const root = new URL("../", import.meta.url);
await mkdir(new URL("src/protocol/", root), { recursive: true });
for (const name of ["client", "server"]) {
  const schema = JSON.parse(await readFile(new URL(`schema/${name}.json`, root), "utf8"));
  plain(schema, schema.definitions, name === "server");
  const text = await compile(schema, name, {
    bannerComment: "/* Made by `npm run types` from schema/" + name + ".json. Do not edit. */",
    additionalProperties: false,
    unreachableDefinitions: true,
    format: true,
    style: { printWidth: 110 },
  });
  const file = new URL(`src/protocol/${name}.gen.ts`, root);
  if (!check) await writeFile(file, text);
  else if ((await readFile(file, "utf8").catch(() => "")) !== text) {
    console.error(`${file.pathname} is not current: run \`npm run types\``);
    process.exit(1);
  }
}

/**
 * Says the same in the words the generator understands: frames written out, `unknown` for any JSON, and no
 * names of formats and bounds. What the hub leaves out it never sends as `null`.
 */
function plain(node, definitions, sent) {
  if (Array.isArray(node)) return node.forEach((item) => plain(item, definitions, sent));
  if (typeof node !== "object" || node === null) return;
  for (const key of ["format", "minimum", "maximum", "maxItems", "minItems", "default"]) {
    if (typeof node[key] !== "object") delete node[key];
  }
  if (node.$ref && node.properties) {
    const { properties, required = [] } = definitions[node.$ref.split("/").pop()];
    delete node.$ref;
    node.properties = { ...node.properties, ...structuredClone(properties) };
    node.required = [...(node.required ?? []), ...required];
  }
  if (sent && Array.isArray(node.type)) node.type = node.type.filter((type) => type !== "null")[0];
  if (sent && node.anyOf?.some((option) => option.type === "null")) {
    const [only] = node.anyOf.filter((option) => option.type !== "null");
    delete node.anyOf;
    Object.assign(node, only);
  }
  for (const [name, schema] of Object.entries(node.properties ?? {})) {
    if (schema === true || !Object.keys(schema).some((key) => KINDS.has(key))) {
      node.properties[name] = { ...schema, tsType: "unknown" };
    }
  }
  Object.values(node).forEach((item) => plain(item, definitions, sent));
}
