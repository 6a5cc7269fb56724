import { copyFile, mkdir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";

const SOURCE = join(import.meta.dirname, "src");
const OUTPUT = join(import.meta.dirname, "dist");
/** Code that lives elsewhere and ends up in the bundle. */
const SHARED = join(import.meta.dirname, "../../shared/src");

if ((await newestIn(SOURCE, SHARED)) > (await newestIn(OUTPUT))) {
  await mkdir(OUTPUT, { recursive: true });
  await build({
    entryPoints: [join(SOURCE, "main.tsx"), join(SOURCE, "style.css")],
    outdir: OUTPUT,
    bundle: true,
    minify: true,
    sourcemap: true,
    format: "esm",
    target: "es2022",
    jsx: "automatic",
    jsxImportSource: "preact",
    logLevel: "warning",
  });
  await copyFile(join(SOURCE, "index.html"), join(OUTPUT, "index.html"));
}

/** Time of the newest file below the folders; 0 when there is none. */
async function newestIn(...folders: readonly string[]): Promise<number> {
  const times = await Promise.all(
    folders.map(async (folder) => {
      const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
      const stats = await Promise.all(
        entries.filter((entry) => entry.isFile()).map(async (entry) => await stat(join(entry.parentPath, entry.name))),
      );
      return Math.max(0, ...stats.map((found) => found.mtimeMs));
    }),
  );
  return Math.max(0, ...times);
}
