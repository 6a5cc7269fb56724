// Plain JavaScript without dependencies: it runs on the machine's own Node, before anything of ours is installed.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";

/** What the project runs on. One place; CI, tests and the demo all come through here. */
export const NODE_VERSION = "24.21.0";
export const PNPM_VERSION = "12.21.0";
const NODE_MAJOR_MIN = 24;

/** Brings Node and pnpm from the npm registry into the checkout, once. Returns the folder to put first in PATH. */
export function ensureToolchain(root, say) {
  const folder = join(root, ".toolchain");
  const bin = join(folder, "node_modules/.bin");
  const stampFile = join(folder, "stamp");
  const stamp = `node ${NODE_VERSION} pnpm ${PNPM_VERSION} ${process.platform} ${process.arch}`;
  if (existsSync(stampFile) && readFileSync(stampFile, "utf8") === stamp) return bin;
  say(`fetching Node ${NODE_VERSION} and pnpm ${PNPM_VERSION} (once, about 20 s)`);
  mkdirSync(folder, { recursive: true });
  const flags = ["--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--loglevel=error"];
  const result = spawnSync("npm", ["install", ...flags, `node@${NODE_VERSION}`, `pnpm@${PNPM_VERSION}`], {
    stdio: ["ignore", "inherit", "inherit"],
    env: cleanEnvironment(),
    cwd: folder,
  });
  if (result.status !== 0)
    throw new Error(
      "Node and pnpm could not be fetched from the npm registry. Check the network and npm's registry setting, then run the same command again.",
    );
  const version = spawnSync(join(bin, "node"), ["--version"], { encoding: "utf8" }).stdout.trim();
  if (!isAtLeast(version, NODE_MAJOR_MIN))
    throw new Error(`The fetched Node says it is ${version}; expected ${NODE_VERSION}.`);
  writeFileSync(stampFile, stamp);
  return bin;
}

/** Whether a version such as v24.1.0 has at least that major number. */
export function isAtLeast(version, major) {
  const found = /^v?(\d+)\./.exec(version);
  return found !== null && Number(found[1]) >= major;
}

export const SYSTEM_FOLDERS = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** The environment without what an outer `npm run` puts there for itself: it would steer the inner npm and pnpm. */
export function cleanEnvironment(/** @type {string | null} */ bin = null) {
  const entries = Object.entries(process.env).filter(
    ([name]) =>
      !/^npm_(?:config_(?:prefix|local_prefix|global_prefix|noproxy|node_gyp)|lifecycle|package|command|execpath|node_execpath)/.test(
        name,
      ),
  );
  const environment = Object.fromEntries(entries);
  // Debian gives people who are not root a PATH without the sbin folders, where mke2fs, ip and nft are.
  environment.PATH = [...(bin === null ? [] : [bin]), environment.PATH ?? "", ...SYSTEM_FOLDERS].join(delimiter);
  return environment;
}
