// Fails if something that the package exports, or a method of it, has no words in its types.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("../", import.meta.url));
const { exports } = JSON.parse(await readFile(`${root}package.json`, "utf8"));
const entries = Object.values(exports).map(({ types }) => root + types.replace("./dist/", "src/").replace(".d.ts", ".ts"));
const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile).config, ts.sys, root);
const program = ts.createProgram(entries, { ...options, noEmit: true });
const checker = program.getTypeChecker();
const silent = (symbol) => symbol.getDocumentationComment(checker).length === 0;
const hidden = (symbol) =>
  symbol.getJsDocTags(checker).some(({ name }) => name === "internal") ||
  ts.isPrivateIdentifier(symbol.valueDeclaration.name) ||
  (ts.getCombinedModifierFlags(symbol.valueDeclaration) & ts.ModifierFlags.Private) !== 0;

const missing = new Set();
for (const entry of entries) {
  for (const exported of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(entry)))) {
    const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
    if (silent(symbol)) missing.add(symbol.name);
    if (!(symbol.flags & ts.SymbolFlags.Class)) continue;
    for (const member of symbol.members.values()) {
      const method = member.flags & (ts.SymbolFlags.Method | ts.SymbolFlags.Accessor);
      if (method && !hidden(member) && silent(member)) missing.add(`${symbol.name}.${member.name}`);
    }
  }
}
if (missing.size > 0) throw new Error(`without a comment: ${[...missing].join(", ")}`);
