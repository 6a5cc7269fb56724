import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";

/** Images by content, in `<stateDir>/images/sha256`. A file there is whole and never changes. */
export interface ImageFiles {
  /** Stores a stream under its hash. Rejects with `validation_failed` when it is not the expected one; nothing is kept then. */
  store(
    stream: AsyncIterable<Uint8Array>,
    expectedSha256: string | null,
  ): Promise<{ readonly sha256: string; readonly sizeBytes: number }>;
  /** Path and size of the file; undefined when it is not here. */
  find(sha256: string): Promise<{ readonly path: string; readonly sizeBytes: number } | undefined>;
}

export function makeImageFiles(stateDir: string): ImageFiles {
  const folder = join(stateDir, "images/sha256");
  return {
    store: async (stream, expectedSha256) => {
      await mkdir(folder, { recursive: true });
      const draft = join(folder, `.${randomUUID()}.new`);
      try {
        const stored = await writeDraft(draft, stream);
        if (expectedSha256 !== null && stored.sha256 !== expectedSha256) {
          throw new AppError("validation_failed", {
            errors: [{ pointer: "?sha256", message: `The upload has the hash ${stored.sha256}. Send the file again.` }],
          });
        }
        await rename(draft, join(folder, stored.sha256));
        return stored;
      } catch (error) {
        if (error instanceof Error && "code" in error && error.code === "ENOSPC")
          throw new AppError("disk_full", { detail: `There is no room for the image in ${folder}.`, cause: error });
        throw error;
      } finally {
        await rm(draft, { force: true });
      }
    },
    find: async (sha256) => {
      const path = join(folder, sha256);
      const found = await stat(path).catch(() => undefined);
      return found === undefined ? undefined : { path, sizeBytes: found.size };
    },
  };
}

async function writeDraft(
  path: string,
  stream: AsyncIterable<Uint8Array>,
): Promise<{ readonly sha256: string; readonly sizeBytes: number }> {
  const hash = createHash("sha256");
  let sizeBytes = 0;
  const file = await open(path, "wx", 0o644);
  try {
    for await (const chunk of stream) {
      hash.update(chunk);
      sizeBytes += chunk.length;
      await file.writeFile(chunk);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return { sha256: hash.digest("hex"), sizeBytes };
}
