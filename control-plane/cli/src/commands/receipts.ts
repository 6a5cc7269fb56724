import { receiptListSchema, slotReceiptsSchema, type Receipt } from "@hostler/shared/api/receipts.ts";
import { harmless } from "@hostler/shared/command-records.ts";
import { positional, type Command } from "../command.ts";
import { nodePath } from "../node-path.ts";
import { table } from "../output.ts";

const COLUMNS = [
  "given back",
  "clean",
  "reset",
  "health before",
  "health after",
  "memory",
  "disk",
  "signature",
  "task",
];

/** What hosts prove that they did with what was given back. */
export const receiptCommands: readonly Command[] = [
  {
    words: "nodes slots",
    summary: "List the GPU slots of a host, each with the receipt of when it was last given back.",
    positionals: ["node"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const path = `${await nodePath(client, positional(invocation, 0))}/receipts`;
      const slots = await client.get(path, slotReceiptsSchema);
      invocation.print.result(slots, ({ items }) =>
        table(
          ["gpu", "kind", "state", "reason", ...COLUMNS],
          items.map(({ gpuUuid, kind, state, reason, receipt }) => [
            gpuUuid,
            kind,
            state,
            reason ?? "-",
            ...(receipt === null ? ["never"] : receiptCells(receipt, gpuUuid)),
          ]),
        ),
      );
      return 0;
    },
  },
  {
    words: "allocations receipt",
    summary: "Show what the host signed that it did with the GPUs and the disk of a slice that was given back.",
    positionals: ["allocation"],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const id = encodeURIComponent(positional(invocation, 0));
      const receipts = await client.get(`/api/tenant/v1/allocations/${id}/receipts`, receiptListSchema);
      invocation.print.result(receipts, ({ items }) =>
        items.length === 0
          ? "No host has given a receipt for it yet."
          : table(["gpu", ...COLUMNS], items.flatMap(rowsOf)),
      );
      return 0;
    },
  },
];

/** One for each GPU; one for the disk where there was none. */
function rowsOf(receipt: Receipt): string[][] {
  if (receipt.gpus.length === 0) return [["none", ...receiptCells(receipt, "")]];
  return receipt.gpus.map(({ gpuUuid }) => [harmless(gpuUuid), ...receiptCells(receipt, gpuUuid)]);
}

function receiptCells(receipt: Receipt, gpuUuid: string): string[] {
  const gpu = receipt.gpus.find((row) => row.gpuUuid === gpuUuid);
  const disk = receipt.disk === null ? "-" : `${receipt.disk.method}, then ${receipt.disk.readBack}`;
  const clean = gpu === undefined ? "-" : gpu.clean ? "yes" : `no: ${gpu.reason ?? "not said why"}`;
  const cells = [
    ...[receipt.at, receipt.untouched ? "never touched" : clean, gpu?.reset ?? "-", gpu?.healthBefore ?? "-"],
    ...[gpu?.healthAfter ?? "-", gpu?.scrub ?? "-", disk, receipt.signature, receipt.taskId],
  ];
  return cells.map(harmless);
}
