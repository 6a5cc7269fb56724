import { expect, test } from "vitest";
import { importsOf, sourceFiles } from "./source-files.ts";
import { GUEST_PROGRAM } from "./vfio.ts";

test("what a program loads is told apart from what it only names as a type", () => {
  const text = `import { a } from "node:fs";
import type { B } from "./b.ts";
import { type C, c } from "./c.ts";
import * as z from "zod";
export const d = 'import { e } from "e"';
`;
  expect(importsOf(text)).toEqual(["./c.ts", "zod"]);
});

test("the guest of the suite is given the agent's own code and every package that it loads", async () => {
  const path = GUEST_PROGRAM.pathname.slice(GUEST_PROGRAM.pathname.indexOf("test/chaos/"));
  const files = await sourceFiles(path);
  const paths = files.map((file) => file.path);
  expect(paths).toContain("node-agent/src/gpus/passthrough/make-passthrough.ts");
  expect(paths).toContain("node-agent/src/host/pci/guarded-write.ts");
  expect(paths).toContain("shared/src/clock.ts");
  expect(paths).toContain("node_modules/zod/package.json");
  expect(paths.some((name) => name.includes(".test.ts"))).toBe(false);
});
