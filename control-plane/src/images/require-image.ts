import type { Image } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import { findImage } from "./store.ts";

export type ImageRow = Image;

/** The image of that name; `image_unknown` when there is none. */
export async function requireImage(db: Queryable, name: string): Promise<ImageRow> {
  const image = await findImage(db, name);
  if (image === undefined)
    throw new AppError("image_unknown", {
      detail: `There is no image named ${name}.`,
      errors: [{ pointer: "/image", message: "There is no image of this name." }],
    });
  return image;
}
