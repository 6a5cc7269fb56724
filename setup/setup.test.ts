import { expect, test } from "vitest";
import { BUILD_HOST_PROGRAMS } from "../deploy/guest-image/packages.ts";
import { PROGRAM_PACKAGES } from "../node-agent/src/host/host-commands.ts";
import { HOST_TOOLS, missingMessage, missingTools } from "./host-tools.mjs";
import { cleanEnvironment, isAtLeast } from "./toolchain.mjs";

test("a Node that is too old is told from one that is not", () => {
  expect([
    isAtLeast("v20.20.2", 24),
    isAtLeast("v24.0.0", 24),
    isAtLeast("v26.1.0", 24),
    isAtLeast("rubbish", 24),
  ]).toEqual([false, true, true, false]);
});

test("who is not root is told what is missing, the command that installs it and what is off", () => {
  const missing = missingTools("demo", (program: string) => program !== "qemu-img" && program !== "nft");
  const message = missingMessage(missing);
  expect(message).toContain("sudo apt-get install --no-install-recommends qemu-utils nftables");
  expect(message).toContain("off until then: virtual machines, building the guest image; tap networks");
});

test("a command that needs no host tools asks for none", () => {
  expect(missingTools("check", () => false)).toEqual([]);
});

test("the set-up installs what the agent and the guest image need, under the same package names", () => {
  const installed = new Map(HOST_TOOLS.map((tool) => [tool.program, tool.package]));
  // These are on every Debian.
  const packages = new Set([...installed.values(), "coreutils", "findutils", "mount", "passwd", "tar"]);
  for (const [program, name] of Object.entries(PROGRAM_PACKAGES))
    expect(packages, `${program} of the agent`).toContain(name);
  for (const [program, name] of Object.entries(BUILD_HOST_PROGRAMS))
    if (name !== "apt" && name !== "dpkg") expect(packages, `${program} of the guest image`).toContain(name);
});

test("an outer npm run does not steer the inner one", () => {
  process.env["npm_config_local_prefix"] = "/elsewhere";
  process.env["npm_lifecycle_event"] = "test";
  const environment = cleanEnvironment("/tools");
  expect(
    Object.keys(environment).filter((name) => name.startsWith("npm_config_local") || name.startsWith("npm_lifecycle")),
  ).toEqual([]);
  expect(environment["PATH"]?.startsWith("/tools:")).toBe(true);
});
