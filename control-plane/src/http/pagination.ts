import { AppError } from "@hostler/shared/errors.ts";

/** Where a page begins: after the item with this id. Ids sort by time, so a listing is stable while things are added. */
export function decodeCursor(cursor: string | undefined): string | null {
  if (cursor === undefined) return null;
  const id = Buffer.from(cursor, "base64url").toString("utf8");
  if (!/^[a-z0-9_.-]{1,80}$/.test(id)) {
    throw new AppError("validation_failed", {
      errors: [{ pointer: "?cursor", message: "This is not a cursor of ours; take nextCursor of the page before." }],
    });
  }
  return id;
}

/** Cuts `limit` items off a read of `limit + 1` and says where the next page begins. */
export function pageOfRows<Row>(
  rows: readonly Row[],
  limit: number,
  idOf: (row: Row) => string,
): { items: Row[]; nextCursor: string | null } {
  const items = rows.slice(0, limit);
  const last = items.at(-1);
  return {
    items,
    nextCursor: rows.length > limit && last !== undefined ? Buffer.from(idOf(last)).toString("base64url") : null,
  };
}
