import { expect, test } from "vitest";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { makeSpec, never } from "../testing.ts";
import { makeAddressPool } from "./addresses.ts";
import { DEFAULT_NETWORK_POLICY } from "./network-policy.ts";
import { prepareRules } from "./prepare-rules.ts";

/** A host with a default route that forwards; counts what is started. */
function makeHost() {
  const started: string[] = [];
  const answers = [
    { when: "-batch", stdout: '[{"dst":"default"}]\n[{"family":"inet","interface":"all","forwarding":true}]\n[]\n' },
    { when: "get", stdout: '[{"prefsrc":"203.0.113.2"}]' },
  ];
  const commands: HostCommands = {
    run: async (argv) => {
      started.push(argv.join(" "));
      const stdout = answers.find(({ when }) => argv.includes(when))?.stdout ?? "[]";
      return { exitCode: 0, stdout, stderr: "", durationMs: 1 };
    },
  };
  const addresses = makeAddressPool({ files: makeMemoryFiles(), commands, portsInUse: async () => new Set() });
  return { started, deps: { commands, addresses, policy: DEFAULT_NETWORK_POLICY } };
}

test("nothing that a tenant wrote comes into the rules but the numbers of ports", async () => {
  const ports = [{ protocol: "tcp", port: 80 } as const];
  const plain = makeSpec({ ports: [...ports] });
  const hostile = '"; flush ruleset; table inet x { } #\n$(reboot)';
  const image = { ...plain.image, name: hostile };
  const texts = { hostName: hostile, userData: hostile, sshPublicKeys: [hostile], labels: { [hostile]: hostile } };
  const { deps } = makeHost();
  const { script } = await prepareRules(deps, plain, never);
  expect((await prepareRules(deps, { ...plain, ...texts, image }, never)).script).toBe(script);
  expect(script).toContain("tcp dport 80 ");
});

test("a slice without ports or limits asks the host once for its routes, and with ports where it is reached", async () => {
  const plain = makeHost();
  const { facts, script } = await prepareRules(plain.deps, makeSpec(), never);
  expect(plain.started).toHaveLength(1);
  expect(facts).toEqual({ address: "10.203.0.2", policy: "outbound" });
  expect(script).not.toMatch(/limit|dnat ip/);
  const open = makeHost();
  await prepareRules(open.deps, makeSpec({ ports: [{ protocol: "udp", port: 53 }] }), never);
  expect(open.started).toHaveLength(2);
});

test("of two limits of bandwidth the lower one counts", async () => {
  const { deps } = makeHost();
  const limitOf = async (policyLimit: number | null, asked?: number): Promise<unknown> => {
    const policy = { ...DEFAULT_NETWORK_POLICY, bandwidthMbitPerSecond: policyLimit };
    const spec = makeSpec(asked === undefined ? {} : { bandwidthMbitPerSecond: asked });
    return (await prepareRules({ ...deps, policy }, spec, never)).facts["bandwidthMbitPerSecond"];
  };
  expect(await limitOf(null)).toBe(undefined);
  expect(await limitOf(null, 50)).toBe(50);
  expect(await limitOf(100)).toBe(100);
  expect(await limitOf(100, 50)).toBe(50);
  expect(await limitOf(100, 1000)).toBe(100);
});
