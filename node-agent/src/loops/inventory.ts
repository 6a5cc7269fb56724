import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Inventory } from "@hostler/shared/node-protocol.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { Loop } from "./supervise.ts";

/**
 * Tells the control plane what this host is: at the start, when something changed, and every five minutes. The host is
 * looked at every half minute; only a change that places slices differently counts, free disk space does not.
 */
export function inventoryLoop(deps: {
  readonly controlPlane: Pick<ControlPlane, "sendInventory">;
  readonly readInventory: (signal: AbortSignal) => Promise<Inventory>;
  readonly clock: Clock;
  readonly log: Log;
}): Loop {
  const { controlPlane, readInventory, clock, log } = deps;
  return {
    name: "inventory",
    run: async (setStatus, signal) => {
      let sent: { readonly text: string; readonly atMs: number } | null = null;
      for (;;) {
        try {
          const inventory = await readInventory(signal);
          const text = comparable(inventory);
          const isDue: boolean = sent === null || text !== sent.text || clock.monotonicMs() - sent.atMs >= RESEND_MS;
          if (isDue) {
            await controlPlane.sendInventory(inventory, signal);
            if (sent !== null && text !== sent.text) log.info({ gpus: inventory.gpus.length }, "inventory changed");
            sent = { text, atMs: clock.monotonicMs() };
          }
          setStatus(
            `sent: ${inventory.gpus.length} GPUs${inventory.gpusSimulated ? " (simulated)" : ""}, ${inventory.gpus.filter((gpu) => !gpu.healthy).length} unhealthy`,
          );
          await clock.sleep(LOOK_MS, signal);
        } catch (error) {
          signal.throwIfAborted();
          log.warn({ error: describeError(error) }, "inventory not sent, will retry");
          setStatus(`not sent: ${describeError(error)}`);
          await clock.sleep(sent === null ? FIRST_RETRY_MS : LOOK_MS, signal);
        }
      }
    },
  };
}

const LOOK_MS = 30_000;
const RESEND_MS = 5 * 60_000;
/** Nothing is placed on a host whose inventory was never seen. */
const FIRST_RETRY_MS = 2000;

function comparable(inventory: Inventory): string {
  return JSON.stringify({ ...inventory, facts: { ...inventory.facts, diskFreeGib: 0 } });
}
