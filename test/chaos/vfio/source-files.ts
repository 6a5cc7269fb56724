import { readdir, readFile, realpath } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import * as z from "zod";

export const ROOT = join(import.meta.dirname, "../../..");
/** Our packages that a guest can be given, and where the folder of each begins. */
const OWN: Readonly<Record<string, string>> = { shared: "shared/src", "node-agent": "node-agent/src" };

const manifestSchema = z.object({ dependencies: z.record(z.string(), z.string()).optional() });

/** A file for the guest, by its path from the top of the repository. */
export interface SourceFile {
  readonly path: string;
  readonly content: Uint8Array;
}

/** Of a package: what Node loads, and not what only its authors run. */
const LOADED = /\.(?:js|cjs|mjs|json)$/;
const NOT_LOADED = /(?:^|\/)(?:src|test|tests|bench|benchmarks|docs|examples)\//;

/** The program at `entry` with all that it imports: our own files as they are, other packages whole. */
export async function sourceFiles(entry: string): Promise<readonly SourceFile[]> {
  const files = new Map<string, Uint8Array>();
  /** Where each package lies, by its name. */
  const packages = new Map<string, string>();
  const waiting = [entry];
  for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
    if (files.has(path)) continue;
    const content = await readFile(join(ROOT, path));
    files.set(path, content);
    for (const specifier of importsOf(content.toString("utf8"))) {
      const own = ownPath(specifier, dirname(path));
      if (own !== null) waiting.push(own);
      else await addPackage(packages, join(ROOT, path.split("/")[0] ?? "", "node_modules"), specifier);
    }
  }
  for (const name of Object.keys(OWN))
    files.set(`${name}/package.json`, await readFile(join(ROOT, name, "package.json")));
  for (const [name, folder] of packages)
    for (const file of await packageFiles(name, folder)) files.set(file.path, file.content);
  return [...files].map(([path, content]) => ({ path, content }));
}

/** The modules that a text imports, but for Node's own. Imports of types only are erased before the program runs. */
export function importsOf(text: string): readonly string[] {
  const found = text.matchAll(/(?:^|\n)(?:import|export)\s(?!type\s)[^"';]*?from\s+"([^"]+)"/g);
  return [...found].map((match) => match[1] ?? "").filter((name) => !name.startsWith("node:"));
}

function ownPath(specifier: string, folder: string): string | null {
  if (specifier.startsWith(".")) return join(folder, specifier);
  const match = /^@hostler\/([a-z-]+)\/(.+)$/.exec(specifier);
  const root = OWN[match?.[1] ?? ""];
  return root === undefined ? null : join(root, match?.[2] ?? "");
}

/** With the packages that it needs itself: pnpm puts those beside it. */
async function addPackage(packages: Map<string, string>, modules: string, name: string): Promise<void> {
  if (packages.has(name)) return;
  const folder = await realpath(join(modules, name));
  packages.set(name, folder);
  const { dependencies = {} } = manifestSchema.parse(JSON.parse(await readFile(join(folder, "package.json"), "utf8")));
  const beside = folder.slice(0, -name.length);
  for (const dependency of Object.keys(dependencies)) await addPackage(packages, beside, dependency);
}

async function packageFiles(name: string, folder: string): Promise<readonly SourceFile[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const wanted = entries
    .filter((entry) => entry.isFile() && LOADED.test(entry.name))
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .filter((path) => !NOT_LOADED.test(path));
  return await Promise.all(
    wanted.map(async (path) => ({
      path: `node_modules/${name}/${path}`,
      content: await readFile(join(folder, path)),
    })),
  );
}
