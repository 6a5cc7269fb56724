import { accessSync, constants, existsSync } from "node:fs";
import { join } from "node:path";

/**
 * The first of its name in the folders that may be run, at once, for who is about to start it: a start stands still for its program's
 * file all the same, and a walk that waits its turn behind the disk at each folder takes longer than many programs do. The name
 * itself where there is none. Of its own file, because the small process that starts programs has it too.
 */
export function locateProgram(name: string, folders: readonly string[]): string {
  if (name.startsWith("/")) return name;
  return folders.map((folder) => join(folder, name)).find(isExecutableNow) ?? name;
}

function isExecutableNow(path: string): boolean {
  if (!existsSync(path)) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
