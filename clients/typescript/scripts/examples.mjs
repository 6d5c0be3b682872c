// Writes the examples of README.md to build/, for the type checker.
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";

const root = new URL("../", import.meta.url);
const text = await readFile(new URL("README.md", root), "utf8");
const examples = [...text.matchAll(/```(tsx?)\n([\s\S]*?)```/g)];
if (examples.length < 8) throw new Error("the examples of README.md were not found");
const dir = new URL("build/examples/", root);
await rm(dir, { recursive: true, force: true });
await mkdir(dir, { recursive: true });
const known = `import type { Client, Project } from "@syncline/client";
import type { BackgroundTaskLike, NetworkLike, TaskManagerLike } from "@syncline/client/expo";
declare global {
  const taskManager: TaskManagerLike;
  const backgroundTask: BackgroundTaskLike;
  const network: NetworkLike;
  const notifications: import("@syncline/client/push").NotificationsLike<unknown>;
  const device: import("@syncline/client/push").DeviceLike;
  const localization: import("@syncline/client/push").LocalizationLike;
  const application: import("@syncline/client/push").ApplicationLike;
  const queryClient: import("@syncline/client/query").QueryClientLike;
  const session: { user: string; token: string; renew(): Promise<string> };
  const render: (what: unknown) => void;
}
export type { Client, Project };
`;
await writeFile(new URL("known.ts", dir), known);
for (const [at, [, kind, example]] of examples.entries()) {
  const given = ["client", "project", "id"].filter((name) => !new RegExp(`const (\\{[^}]*\\b)?${name}\\b`).test(example));
  const types = { client: "Client", project: "Project", id: "string" };
  const lines = given.map((name) => `declare const ${name}: import("./known").${types[name]};`.replace('import("./known").string', "string"));
  const file = `${example}\n${lines.join("\n")}\nexport {};\n`;
  await writeFile(new URL(`example-${at}.${kind}`, dir), file);
}
