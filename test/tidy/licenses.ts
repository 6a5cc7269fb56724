import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const ALLOWED_LICENSES: ReadonlySet<string> = new Set([
  "MIT",
  "Apache-2.0",
  "BSD-3-Clause",
  "ISC",
  "Unlicense",
  "(BSD-3-Clause OR GPL-2.0)",
]);

const WORKSPACES = ["", "shared", "pki", "control-plane", "control-plane/console", "control-plane/cli", "node-agent"];

/** The direct dependencies of every workspace package, with the licence that each says of itself. */
export function licensesOf(root: string): { readonly name: string; readonly license: string }[] {
  const found = new Map<string, string>();
  for (const workspace of WORKSPACES) {
    const manifest = readManifest(join(root, workspace, "package.json"));
    for (const name of Object.keys({ ...manifest.dependencies, ...manifest.devDependencies })) {
      const path = join(root, workspace, "node_modules", name, "package.json");
      if (name.startsWith("@hostler/") || !existsSync(path)) continue;
      found.set(name, readManifest(path).license ?? "none");
    }
  }
  return [...found].map(([name, license]) => ({ name, license }));
}

function readManifest(path: string): {
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  license?: string;
} {
  return JSON.parse(readFileSync(path, "utf8")) as { dependencies?: Record<string, string>; license?: string };
}
