import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** Recorded outputs of real hosts, beside the project and not part of it: tests that read them skip, and say so, where they are not. */
const FOLDER = join(import.meta.dirname, "../../../../shared/fixtures");

const hasFixtures = existsSync(FOLDER);

/** The text of a recorded output, by its path under the folder. */
export function readFixture(path: string): string {
  return readFileSync(join(FOLDER, path), "utf8");
}

/** The names in one of its folders; none where there are no recorded outputs. */
export function listFixtures(folder: string): string[] {
  return hasFixtures ? readdirSync(join(FOLDER, folder)).toSorted() : [];
}
