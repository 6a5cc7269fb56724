import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["**/*.test.ts"],
    exclude: ["**/node_modules/**", ".cache/**", ".toolchain/**"],
    globalSetup: ["control-plane/src/db/test-global-setup.ts"],
    testTimeout: 30_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    reporters: ["default", "./test/support/plain-reporter.ts"],
  },
});
