import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cleanEnvironment } from "./toolchain.mjs";

const MANIFESTS = [
  "package.json",
  "pnpm-lock.yaml",
  "pnpm-workspace.yaml",
  "shared/package.json",
  "pki/package.json",
  "control-plane/package.json",
  "control-plane/console/package.json",
  "control-plane/cli/package.json",
  "node-agent/package.json",
];

/** Installs from the frozen lockfile when a manifest changed since the last time. */
export function ensureDependencies(root, bin, say) {
  const hash = createHash("sha256");
  for (const name of MANIFESTS) hash.update(readFileSync(join(root, name)));
  const stamp = hash.digest("hex");
  const stampFile = join(root, "node_modules/.hostler-stamp");
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return;
  say("installing packages from the lockfile");
  const result = spawnSync("pnpm", ["install", "--frozen-lockfile", "--reporter=append-only"], {
    cwd: root,
    env: cleanEnvironment(bin),
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
  });
  if (result.status !== 0)
    throw new Error(
      `pnpm install failed:\n${result.stdout}\nCheck the network and the npm registry, then run the same command again.`,
    );
  writeFileSync(stampFile, stamp);
}
