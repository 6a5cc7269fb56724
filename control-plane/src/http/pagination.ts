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

/** The same for a listing whose items are numbered. */
export function decodeNumberCursor(cursor: string | undefined): number | null {
  const text = decodeCursor(cursor);
  if (text === null) return null;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new AppError("validation_failed", {
    errors: [{ pointer: "?cursor", message: "This is not a cursor of this listing." }],
  });
}

/** A page of a listing by ids. `read` is given where it begins, and how many rows to read. */
export async function readPage<Row extends { readonly id: string }>(
  query: { readonly limit: number; readonly cursor?: string | undefined },
  read: (page: { readonly after: string | null; readonly limit: number }) => Promise<readonly Row[]>,
): Promise<{ items: Row[]; nextCursor: string | null }> {
  const { limit, cursor } = query;
  return pageOfRows(await read({ after: decodeCursor(cursor), limit: limit + 1 }), limit, ({ id }) => id);
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
