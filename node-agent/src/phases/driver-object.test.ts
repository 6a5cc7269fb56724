import { expect, test } from "vitest";
import type { HostObject } from "../ports/slice-driver.ts";
import { driverObjectPhase } from "./driver-object.ts";
import type { ProvisionContext } from "./phase.ts";

const half: HostObject = {
  inspect: async () => await Promise.resolve("partial"),
  create: async () => await Promise.resolve({}),
  remove: async () => await Promise.resolve(),
};

test.each([
  ["start", "machine_exited"],
  ["network", "command_failed"],
] as const)("a %s that is not whole right after it was made is a %s", async (name, code) => {
  const phase = driverObjectPhase({ name, timeoutMs: 1000, isSideBySide: false, objectOf: () => half });
  const context = { slice: {}, signal: new AbortController().signal } as ProvisionContext;
  await expect(phase.verify(context)).rejects.toMatchObject({ code });
});
