import { once } from "node:events";
import { createServer } from "node:net";
import { onTestFinished } from "vitest";
import { waitFor } from "./wait-for.ts";

/**
 * For what a host has only one of, such as its hugepages: resolves when no other test of this host uses it, until the test is
 * over. An abstract socket, because the kernel takes it back when a test is killed.
 */
export async function aloneOnHost(what: string): Promise<void> {
  const server = await waitFor(
    `${what} for this test alone`,
    async () => {
      const listening = createServer();
      listening.listen(`\0hostler-test-${what}`);
      return await once(listening, "listening").then(
        () => listening,
        () => undefined,
      );
    },
    { timeoutMs: 240_000, everyMs: 200 },
  );
  server.unref();
  onTestFinished(() => void server.close());
}
