import { access, constants } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { pathVariable } from "../config.ts";

/** Where the host's own tools may lie although PATH does not name it: a service's PATH often leaves these out. */
const SYSTEM_FOLDERS = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/** The full path of a program, or null when the host does not have it. */
export type FindProgram = (name: string) => Promise<string | null>;

export function searchFolders(): readonly string[] {
  return [...new Set([...pathVariable().split(delimiter), ...SYSTEM_FOLDERS])].filter((folder) => folder !== "");
}

export function makeFindProgram(folders: readonly string[]): FindProgram {
  return async (name) => {
    if (name.startsWith("/")) return (await isExecutable(name)) ? name : null;
    for (const folder of folders) {
      const path = join(folder, name);
      if (await isExecutable(path)) return path;
    }
    return null;
  };
}

export const findProgram: FindProgram = async (name) => await makeFindProgram(searchFolders())(name);

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
