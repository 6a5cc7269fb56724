// The one way into every command: it brings what is missing, then runs it. Works from a fresh clone with Node 20 and npm.
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { CHECKS } from "./checks.mjs";
import { ensureDependencies } from "./dependencies.mjs";
import { ensureHostTools } from "./host-tools.mjs";
import { cleanEnvironment, ensureToolchain } from "./toolchain.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const COMMANDS = {
  demo: (args) => runNode(["deploy/demo/main.ts", ...args]),
  test: (args) => runNode(["node_modules/vitest/vitest.mjs", "run", ...args]),
  "test:gpu": (args) => runNode(["node_modules/vitest/vitest.mjs", "run", "test/gpu", ...args]),
  bench: (args) => runSuite("bench", args),
  chaos: (args) => runSuite("chaos", args),
  sim: (args) => runSuite("simulation", args),
  check: () => runChecks(),
  setup: async () => 0,
};

const [command = "", ...args] = process.argv.slice(2);
const run = COMMANDS[command];
let bin = null;
if (run === undefined) {
  process.stderr.write(`There is no command '${command}'. Commands: ${Object.keys(COMMANDS).join(", ")}\n`);
  process.exitCode = 2;
} else {
  const startedMs = performance.now();
  try {
    bin = ensureToolchain(root, say);
    ensureDependencies(root, bin, say);
    ensureHostTools(command === "setup" ? "demo" : command, say);
    if (command === "demo" || command === "test" || command === "setup") buildConsole();
    say(`ready (${((performance.now() - startedMs) / 1000).toFixed(1)} s)`);
    process.exitCode = await run(args);
  } catch (error) {
    process.stderr.write(`set-up: ${error instanceof Error ? error.message : error}\n`);
    process.exitCode = 1;
  }
}

function say(line) {
  process.stderr.write(`set-up: ${line}\n`);
}

function buildConsole() {
  const result = spawnSync("node", ["control-plane/console/build.ts"], {
    cwd: root,
    env: cleanEnvironment(bin),
    stdio: ["ignore", "ignore", "inherit"],
  });
  if (result.status !== 0) throw new Error("the console could not be built");
}

async function runSuite(folder, suiteArgs) {
  const file = `test/${folder}/run.ts`;
  if (!existsSync(join(root, file))) {
    process.stderr.write(`There is no suite '${folder}' yet.\n`);
    return 2;
  }
  return await runNode([file, ...suiteArgs]);
}

/** Runs under our Node with this terminal; signals go through, the exit code comes back. */
function runNode(nodeArgs) {
  const child = spawn("node", nodeArgs, { cwd: root, env: cleanEnvironment(bin), stdio: "inherit" });
  const forward = (signal) => child.kill(signal);
  process.on("SIGTERM", forward);
  // The terminal sends Ctrl-C to the child by itself; we only wait for it.
  process.on("SIGINT", () => undefined);
  return new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? (signal === null ? 1 : 130))));
}

/** Runs every check and reports all failures. */
async function runChecks() {
  let failed = 0;
  for (const check of CHECKS) {
    const startedMs = performance.now();
    const result = spawnSync(check.argv[0], check.argv.slice(1), {
      cwd: root,
      env: cleanEnvironment(bin),
      encoding: "utf8",
    });
    const isGood = result.status === 0;
    process.stdout.write(
      `${isGood ? "ok    " : "FAILED"} ${check.name.padEnd(16)} ${((performance.now() - startedMs) / 1000).toFixed(1)} s\n`,
    );
    if (!isGood) process.stdout.write(`${result.stdout}${result.stderr}\n`);
    failed += isGood ? 0 : 1;
  }
  return failed === 0 ? 0 : 1;
}
