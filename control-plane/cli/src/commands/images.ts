import { openAsBlob } from "node:fs";
import { createReadStream } from "node:fs";
import { createHash } from "node:crypto";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { positional, textOf, type Command } from "../command.ts";
import { table } from "../output.ts";

export const imageCommands: readonly Command[] = [
  {
    words: "images import",
    summary: "Upload an image under a name; its checksum is verified on every host.",
    positionals: ["file"],
    options: {
      name: { type: "string", help: "Name that tenants use, such as debian-12." },
      format: { type: "string", help: "qcow2 (unless given), raw, or tar for the root file system of a container." },
    },
    run: async (invocation) => {
      const path = positional(invocation, 0);
      const name = textOf(invocation, "name");
      if (name === undefined) throw new AppError("malformed_request", { detail: "images import needs --name." });
      const body = await openAsBlob(path).catch((error: unknown) => {
        throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
      });
      const query = new URLSearchParams({
        format: textOf(invocation, "format") ?? "qcow2",
        sha256: await sha256Of(path),
      });
      const client = await invocation.client();
      const image = await client.upload(`/api/ops/v1/images/${encodeURIComponent(name)}?${query}`, body, imageSchema);
      invocation.print.result(
        image,
        (value) => `Imported ${value.name} (${value.sizeBytes} bytes, sha256 ${value.sha256}).`,
      );
      return 0;
    },
  },
  {
    words: "images list",
    summary: "List the images that slices can start from.",
    positionals: [],
    options: {},
    run: async (invocation) => {
      const client = await invocation.client();
      const images = await client.list("/api/tenant/v1/images", imageSchema);
      invocation.print.result(images, (items) =>
        table(
          ["name", "format", "bytes", "sha256"],
          items.map((image) => [image.name, image.format, String(image.sizeBytes), image.sha256]),
        ),
      );
      return 0;
    },
  },
];

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}
