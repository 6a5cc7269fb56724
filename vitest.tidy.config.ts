import { defineConfig } from "vitest/config";

/** The repository's rules about itself: quick, and without a database. */
export default defineConfig({
  test: { include: ["test/tidy/**/*.test.ts"], reporters: ["dot"] },
});
