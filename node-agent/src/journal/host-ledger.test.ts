import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { DriverName } from "@hostler/shared/tasks.ts";
import { expect, test } from "vitest";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { type LedgerRow, makeHostLedger } from "./host-ledger.ts";

function makeRow(driver: DriverName): LedgerRow {
  const allocationId = newId("allocation", systemClock);
  const size = { vcpus: 1, memoryMib: 512, diskGib: 1 };
  return { allocationId, generation: 1, driver, fence: "1", state: "reserved", gpuUuids: [], ...size };
}

test("nothing is reserved beside a slice that has the whole host, nor such a slice beside anything", async () => {
  for (const [first, second] of [
    ["host", "container"],
    ["qemu", "host"],
    ["host", "host"],
  ] as const) {
    const ledger = makeHostLedger(makeMemoryFiles(new Map(), () => undefined));
    const row = makeRow(first);
    await ledger.reserve("a", row);
    await expect(ledger.reserve("b", makeRow(second))).rejects.toMatchObject({ code: "capacity_unavailable" });
    // Its own row is not in its way.
    await ledger.reserve("a", { ...row, fence: "2" });
    await ledger.remove("a");
    await ledger.reserve("b", makeRow(second));
  }
});
