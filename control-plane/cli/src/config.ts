import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";

/** Where the control plane is and who asks. The environment wins over the file that `hostler login` wrote. */
export interface CliConfig {
  readonly url: string;
  readonly apiKey: string;
}

const fileSchema = z.strictObject({ url: z.string(), apiKey: z.string() });

/** Reads HOSTLER_URL and HOSTLER_API_KEY, else the login file. Rejects with a sentence that says how to sign in. */
export async function readConfig(): Promise<CliConfig> {
  const saved = await readSaved();
  const url = process.env["HOSTLER_URL"] ?? saved?.url;
  const apiKey = process.env["HOSTLER_API_KEY"] ?? saved?.apiKey;
  if (url === undefined || apiKey === undefined) {
    throw new AppError("unauthenticated", {
      detail: "Not signed in. Run 'hostler login --url URL --key KEY', or set HOSTLER_URL and HOSTLER_API_KEY.",
    });
  }
  if (!URL.canParse(url)) {
    throw new AppError("malformed_request", {
      detail: `HOSTLER_URL is not a URL: ${url}. Expected for example http://127.0.0.1:8080.`,
    });
  }
  return { url: url.replace(/\/+$/, ""), apiKey };
}

/** Keeps the sign-in for later commands, readable by this user only. Resolves with the file's path. */
export async function saveConfig(config: CliConfig): Promise<string> {
  const path = configPath();
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  await writeFile(`${path}.new`, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
  return path;
}

async function readSaved(): Promise<CliConfig | undefined> {
  const path = configPath();
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw new AppError("malformed_request", { detail: `${path} cannot be read.`, cause: error });
  });
  if (text === undefined) return undefined;
  try {
    return fileSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new AppError("malformed_request", { detail: `${path} is damaged. Run 'hostler login' again.`, cause: error });
  }
}

function configPath(): string {
  return join(process.env["XDG_CONFIG_HOME"] ?? join(homedir(), ".config"), "hostler", "cli.json");
}
