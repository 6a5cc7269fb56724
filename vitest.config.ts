import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Suites and journeys first: they are the longest, though their files are short, and one that begins last keeps the run waiting. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      if (moduleId.includes("/test/chaos/") || moduleId.includes("/test/simulation/")) return 0;
      return moduleId.includes("/test/e2e/") ? 1 : 2;
    };
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    include: ["**/*.test.ts"],
    exclude: ["**/node_modules/**", ".cache/**", ".toolchain/**"],
    globalSetup: ["control-plane/src/db/test-global-setup.ts"],
    testTimeout: 30_000,
    hookTimeout: 120_000,
    // One more than CI has cores: what takes long waits for guests, leases and silences, not for a processor.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    reporters: ["default", "./test/support/plain-reporter.ts"],
  },
});
