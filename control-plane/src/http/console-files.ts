import { readdir, readFile } from "node:fs/promises";
import { extname, join, relative } from "node:path";
import type { MiddlewareHandler } from "hono";
import type { PublicEnv } from "./env.ts";

const CONSOLE_DIR = join(import.meta.dirname, "../../console/dist");
const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};
/** Scripts and styles are our own files; xterm sets styles by script, which needs 'unsafe-inline' for styles alone. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'";

/**
 * Serves the console from files that are read once at the start: a request chooses among known paths and never reaches the
 * file system. Paths of the console's own router get its page.
 */
export async function consoleFiles(directory: string = CONSOLE_DIR): Promise<MiddlewareHandler<PublicEnv>> {
  const files = await readFiles(directory);
  const page = files.get("/index.html");
  return async function serveConsole(c, next) {
    if ((c.req.method !== "GET" && c.req.method !== "HEAD") || /^\/(?:api|metrics|healthz)(?:\/|$)/.test(c.req.path))
      return await next();
    const file = files.get(c.req.path) ?? (extname(c.req.path) === "" ? page : undefined);
    if (file === undefined) return await next();
    return c.body(file.bytes, 200, {
      "content-type": file.type,
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
    });
  };
}

async function readFiles(
  directory: string,
): Promise<Map<string, { readonly bytes: Uint8Array<ArrayBuffer>; readonly type: string }>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(() => []);
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const files = await Promise.all(
    paths.map(
      async (path) =>
        [
          `/${relative(directory, path)}`,
          { bytes: new Uint8Array(await readFile(path)), type: TYPES[extname(path)] ?? "application/octet-stream" },
        ] as const,
    ),
  );
  return new Map(files);
}
