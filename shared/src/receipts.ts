import * as z from "zod";

/**
 * What a host did to one GPU before it gave the slot back, row by row. Receipts travel in the facts of the signed result of the
 * task that ended the slice; a row that is null or missing was not done.
 */
export const slotReceiptSchema = z.object({
  gpuUuid: z.string(),
  /** The host's own judgment: whether another tenant may have it. */
  clean: z.boolean(),
  /** Why it is not clean. */
  reason: z.string().nullable(),
  /** The kind of reset after the slice; `never bound` when the slice never got the GPU. */
  reset: z.string().nullable(),
  /** `healthy`, or the fault: when it was handed over, and when it came back. */
  healthBefore: z.string().nullable().optional(),
  healthAfter: z.string().nullable().optional(),
  /** What proves that its memory is clean, or `unproven`. */
  scrub: z.string().nullable(),
});
export type SlotReceipt = z.infer<typeof slotReceiptSchema>;

export const diskReceiptSchema = z.object({
  method: z.string(),
  /** What was found when the host looked for the disk afterwards. */
  readBack: z.string(),
});
export type DiskReceipt = z.infer<typeof diskReceiptSchema>;

export const HEALTHY = "healthy";
/** For the rows of a GPU that the slice never got. */
export const NEVER_BOUND = "never bound";

/** The facts of a result as far as they say what may be handed out again. */
const returnedSchema = z.object({
  /** The host knows nothing of the slice and has done nothing for it. */
  untouched: z.boolean().optional(),
  receipts: z.array(slotReceiptSchema).optional(),
  disk: diskReceiptSchema.nullable().optional(),
});

export interface Returned {
  readonly isUntouched: boolean;
  readonly receipts: readonly SlotReceipt[];
  readonly disk: DiskReceipt | null;
}

/** What the facts of a result say of what was given back; null when they cannot be read. */
export function returnedOf(facts: Readonly<Record<string, unknown>>): Returned | null {
  const parsed = returnedSchema.safeParse(facts);
  if (!parsed.success) return null;
  const { untouched = false, receipts = [], disk = null } = parsed.data;
  return { isUntouched: untouched, receipts, disk };
}

const REQUIRED = ["reset", "healthBefore", "healthAfter", "scrub"] as const satisfies readonly (keyof SlotReceipt)[];

/**
 * Why each GPU may not be handed out again, by UUID; empty when all may. Pure, and closed to what cannot be read: a GPU without
 * a whole receipt is named.
 */
export function receiptGaps(
  facts: Readonly<Record<string, unknown>>,
  gpuUuids: readonly string[],
): Readonly<Record<string, string>> {
  const parsed = returnedSchema.safeParse(facts);
  if (parsed.success && parsed.data.untouched === true) return {};
  const receipts = new Map(parsed.data?.receipts?.map((receipt) => [receipt.gpuUuid, receipt]));
  const hasDisk = (parsed.data?.disk ?? null) !== null;
  return Object.fromEntries(
    gpuUuids.flatMap((uuid) => {
      const gap = gapOf(receipts.get(uuid), hasDisk);
      return gap === null ? [] : [[uuid, gap]];
    }),
  );
}

function gapOf(receipt: SlotReceipt | undefined, hasDisk: boolean): string | null {
  if (receipt === undefined) return "its host gave no receipt for it";
  // The host knows best why; what it does not say is then no news.
  if (!receipt.clean && receipt.reason !== null) return receipt.reason;
  const missing: string[] = REQUIRED.filter((row) => (receipt[row] ?? "") === "");
  if (!hasDisk) missing.push("disk");
  if (missing.length > 0) return `its receipt does not say: ${missing.join(", ")}`;
  if (!receipt.clean) return "its host does not call it clean";
  return receipt.healthAfter === HEALTHY || receipt.healthAfter === NEVER_BOUND
    ? null
    : `it came back ${receipt.healthAfter}`;
}
