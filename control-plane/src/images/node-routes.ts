import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import { AppError } from "@hostler/shared/errors.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { NodeEnv } from "../http/node-env.ts";
import type { ImageFiles } from "./image-files.ts";

/** Base images for the hosts, from any offset on, so that a broken download goes on where it stopped. */
export function imageNodeRoutes(deps: { readonly imageFiles: ImageFiles }): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  app.get(NODE_PATHS.image(":sha256"), async (c) => {
    const sha256 = c.req.param("sha256") ?? "";
    const file = /^[0-9a-f]{64}$/.test(sha256) ? await deps.imageFiles.find(sha256) : undefined;
    if (file === undefined)
      throw new AppError("image_unknown", { detail: `There is no image with the hash ${sha256}.` });
    const offset = Number(/^bytes=(\d+)-$/.exec(c.req.header("range") ?? "")?.[1] ?? 0);
    const start = Math.min(offset, file.sizeBytes);
    const stream = Readable.toWeb(createReadStream(file.path, { start })) as ReadableStream<Uint8Array>;
    return c.body(stream, start > 0 ? 206 : 200, {
      "content-type": "application/octet-stream",
      "content-length": String(file.sizeBytes - start),
      ...(start > 0 ? { "content-range": `bytes ${start}-${file.sizeBytes - 1}/${file.sizeBytes}` } : {}),
    });
  });
  return app;
}
