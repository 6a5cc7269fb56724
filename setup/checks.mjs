const bin = "node_modules/.bin";

/** What `pnpm check` runs, in order. */
export const CHECKS = [
  { name: "types", argv: [`${bin}/tsc`, "-p", "tsconfig.json"] },
  { name: "types of console", argv: [`${bin}/tsc`, "-p", "control-plane/console/tsconfig.json"] },
  { name: "lint", argv: [`${bin}/oxlint`, "--type-aware", "--deny-warnings"] },
  { name: "format", argv: [`${bin}/oxfmt`, "--check", "."] },
  { name: "unused code", argv: [`${bin}/knip`] },
  {
    name: "repository rules",
    argv: ["node", "node_modules/vitest/vitest.mjs", "run", "--config", "vitest.tidy.config.ts"],
  },
];
