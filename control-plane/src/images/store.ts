import type { Image } from "@hostler/shared/api/nodes.ts";
import type { ImageFormat } from "@hostler/shared/tasks.ts";
import type { Queryable } from "../db/sql.ts";

interface Row {
  readonly id: string;
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: string;
  readonly format: ImageFormat;
  readonly createdAt: Date;
}

/** Names an image; a name that exists moves to the new content, which running slices do not notice. */
export async function upsertImage(
  db: Queryable,
  image: {
    readonly id: string;
    readonly name: string;
    readonly sha256: string;
    readonly sizeBytes: number;
    readonly format: ImageFormat;
  },
): Promise<Image> {
  const [row] = await db<Row[]>`
    insert into images (id, name, sha256, size_bytes, format)
    values (${image.id}, ${image.name}, ${image.sha256}, ${image.sizeBytes}, ${image.format})
    on conflict (name) do update
    set sha256 = excluded.sha256, size_bytes = excluded.size_bytes, format = excluded.format
    returning id, name, sha256, size_bytes as "sizeBytes", format, created_at as "createdAt"
  `;
  if (row === undefined) throw new Error("upsert returned no row");
  return viewOf(row);
}

export async function listImages(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<Image[]> {
  const rows = await db<Row[]>`
    select id, name, sha256, size_bytes as "sizeBytes", format, created_at as "createdAt"
    from images
    where (${page.after}::text is null or id > ${page.after})
    order by id
    limit ${page.limit}
  `;
  return rows.map(viewOf);
}

export async function findImage(db: Queryable, name: string): Promise<Image | undefined> {
  const [row] = await db<Row[]>`
    select id, name, sha256, size_bytes as "sizeBytes", format, created_at as "createdAt"
    from images
    where name = ${name}
  `;
  return row === undefined ? undefined : viewOf(row);
}

function viewOf(row: Row): Image {
  return { ...row, sizeBytes: Number(row.sizeBytes), createdAt: row.createdAt.toISOString() };
}
