import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";

/** Where a program of the host is; null when it has none. */
export async function findProgram(name: string): Promise<string | null> {
  for (const folder of [...(process.env["PATH"] ?? "").split(delimiter), "/usr/bin", "/usr/sbin"]) {
    const path = join(folder, name);
    const isThere = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return null;
}
