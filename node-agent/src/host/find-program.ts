import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { pathVariable } from "../config.ts";

/** Where the host's own tools may lie although PATH does not name it: a service's PATH often leaves these out. */
const SYSTEM_FOLDERS = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/** The full path of a program, or null when the host does not have it. */
export async function findProgram(name: string): Promise<string | null> {
  for (const folder of [...pathVariable().split(delimiter), ...SYSTEM_FOLDERS]) {
    const path = join(folder, name);
    const isThere = await access(path, constants.X_OK).then(
      () => folder !== "",
      () => false,
    );
    if (isThere) return path;
  }
  return null;
}
