import { AUDIT_GENESIS_HASH, auditCheckpointLine, auditEntryLine, auditEntryText, auditHeaderLine } from "@hostler/pki";
import { AppError } from "@hostler/shared/errors.ts";
import type { Deps } from "../deps.ts";
import type { AuditSigner } from "./audit-signer.ts";
import { readExportBounds, readSealed } from "./chain-store.ts";

/** Rows are some hundred bytes: half a megabyte a page. */
const PAGE = 1000;

/**
 * The sealed log from behind `afterPosition` to where the chain ended when it began, as the lines of `pki/src/audit-export.ts`
 * in pieces of many lines. It holds one page, however slowly the pieces are taken. Rows are told as they read now, hashes as
 * they were sealed: judging the two is the reader's business, with a key that this server cannot have swapped.
 */
export async function* exportAudit(
  deps: Pick<Deps, "sql"> & { readonly auditSigner: AuditSigner },
  afterPosition: number,
): AsyncGenerator<string, void> {
  const bounds = await readExportBounds(deps.sql, afterPosition);
  const hash = afterPosition === 0 ? AUDIT_GENESIS_HASH : bounds.hash;
  if (hash === null) {
    throw new AppError("validation_failed", {
      errors: [{ pointer: "?afterPosition", message: `Nothing is sealed there; the last is ${bounds.lastPosition}.` }],
    });
  }
  const header = auditHeaderLine({
    keys: deps.auditSigner.publicKeys().keys,
    after: { position: afterPosition, hash: hash.toString("hex") },
    lastPosition: Math.max(afterPosition, bounds.lastPosition),
    newestCheckpoint: bounds.newestCheckpoint,
  });
  yield `${header}\n`;
  let after = afterPosition;
  while (after < bounds.lastPosition) {
    const page = await readSealed(deps.sql, { after, upTo: bounds.lastPosition, limit: PAGE });
    const last = page.at(-1);
    if (last === undefined) return;
    yield page.map(linesOf).join("");
    after = last.position;
  }
}

function linesOf(sealed: Awaited<ReturnType<typeof readSealed>>[number]): string {
  const { position, hash, entry, checkpointJws } = sealed;
  const line = `${auditEntryLine(position, hash, auditEntryText(entry))}\n`;
  return checkpointJws === null ? line : `${line}${auditCheckpointLine(checkpointJws)}\n`;
}
