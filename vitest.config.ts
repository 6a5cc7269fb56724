import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["**/*.test.ts"],
    exclude: ["**/node_modules/**", ".cache/**", ".toolchain/**"],
    globalSetup: ["control-plane/src/db/test-global-setup.ts"],
    testTimeout: 30_000,
    hookTimeout: 120_000,
    // One more than CI has cores: what takes long waits for guests, leases and silences, not for a processor.
    maxWorkers: 3,
    reporters: ["default", "./test/support/plain-reporter.ts"],
  },
});
