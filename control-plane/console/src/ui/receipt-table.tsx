import type { Receipt } from "@hostler/shared/api/receipts.ts";
import type { JSX } from "preact";

/** One line a GPU: what its host signed that it did, and whether the signature holds. */
export function ReceiptTable({
  rows,
}: {
  /** `gpuUuid` null: the slice had none. */
  readonly rows: readonly { readonly gpuUuid: string | null; readonly receipt: Receipt | null }[];
}): JSX.Element {
  return (
    <table class="receipts">
      <thead>
        <tr>
          {["GPU", "given back", "clean", "reset", "health after", "memory", "disk", "signature"].map((name) => (
            <th key={name}>{name}</th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map(({ gpuUuid, receipt }) => (
          <ReceiptRow key={`${gpuUuid} ${receipt?.taskId}`} gpuUuid={gpuUuid} receipt={receipt} />
        ))}
      </tbody>
    </table>
  );
}

/** The rows of a slice's receipts: one for each GPU, or one where it had none. */
export function rowsOf(receipts: readonly Receipt[]): { gpuUuid: string | null; receipt: Receipt }[] {
  return receipts.flatMap((receipt) => {
    const uuids: (string | null)[] = receipt.gpus.map(({ gpuUuid }) => gpuUuid);
    return (uuids.length === 0 ? [null] : uuids).map((gpuUuid) => ({ gpuUuid, receipt }));
  });
}

function ReceiptRow({
  gpuUuid,
  receipt,
}: {
  readonly gpuUuid: string | null;
  readonly receipt: Receipt | null;
}): JSX.Element {
  const gpu = receipt?.gpus.find((row) => row.gpuUuid === gpuUuid);
  const name = <td title={gpuUuid ?? ""}>{gpuUuid === null ? "none" : `${gpuUuid.slice(0, 12)}…`}</td>;
  if (receipt === null)
    return (
      <tr>
        {name}
        <td colSpan={7}>never given back</td>
      </tr>
    );
  const { disk } = receipt;
  const clean = receipt.untouched ? "never touched" : gpu === undefined ? "–" : gpu.clean ? "yes" : `no: ${gpu.reason}`;
  return (
    <tr class={receipt.signature === "verified" ? "" : "failed"} data-receipt={receipt.signature}>
      {name}
      <td title={receipt.taskId}>{receipt.at.slice(0, 19).replace("T", " ")}</td>
      <td>{clean}</td>
      <td>{gpu?.reset ?? "–"}</td>
      <td>{gpu?.healthAfter ?? "–"}</td>
      <td>{gpu?.scrub ?? "–"}</td>
      <td>{disk === null ? "–" : `${disk.method}, then ${disk.readBack}`}</td>
      <td>{receipt.signature}</td>
    </tr>
  );
}
