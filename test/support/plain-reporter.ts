import type { Reporter, TestModule } from "vitest/node";

/** Prints one plain closing line that every CI reads: `N passed, N failed`. */
// oxlint-disable-next-line import/no-default-export -- Vitest loads a reporter by its default export.
export default class PlainReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 };
    for (const testModule of modules) {
      for (const test of testModule.children.allTests()) {
        const { state } = test.result();
        if (state !== "pending") counts[state] += 1;
      }
      if (
        testModule.state() === "failed" &&
        ![...testModule.children.allTests()].some((test) => test.result().state === "failed")
      )
        counts.failed += 1;
    }
    const skipped = counts.skipped === 0 ? "" : `, ${counts.skipped} skipped`;
    process.stdout.write(`\n${counts.passed} passed, ${counts.failed} failed${skipped}\n`);
  }
}
