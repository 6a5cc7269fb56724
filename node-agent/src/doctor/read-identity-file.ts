import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { parseServer } from "../identity/enrol-listener.ts";
import { IDENTITY_FILE, parseIdentityFile, type StoredIdentity } from "../identity/identity-files.ts";
import { codeOf, fileErrorText } from "./words.ts";

/** The identity file as it lies there; the key in it is looked at by its own check. */
export type IdentityFile =
  | { readonly state: "absent" }
  | { readonly state: "unreadable" | "damaged"; readonly reason: string }
  | { readonly state: "present"; readonly mode: number; readonly stored: Omit<StoredIdentity, "privateKey"> };

export async function readIdentityFile(stateDir: string): Promise<IdentityFile> {
  const path = join(stateDir, IDENTITY_FILE);
  let text: string;
  let mode: number;
  try {
    text = await readFile(path, "utf8");
    ({ mode } = await stat(path));
  } catch (error) {
    // ENOTDIR: the state folder itself is a file, which its own check names.
    if (["ENOENT", "ENOTDIR"].includes(codeOf(error))) return { state: "absent" };
    return { state: "unreadable", reason: fileErrorText(error) };
  }
  try {
    const stored = parseIdentityFile(text);
    parseServer(stored.server);
    parseServer(stored.identity.nodeListener);
    return { state: "present", mode, stored };
  } catch (error) {
    return { state: "damaged", reason: damageOf(text, error) };
  }
}

/** Names of fields, never what is in them: the file holds a key, and JSON's own message quotes it. */
function damageOf(text: string, error: unknown): string {
  if (text.trim() === "") return "it is empty";
  if (error instanceof z.ZodError) {
    const fields = error.issues.map((issue) => issue.path.join(".")).filter((field) => field !== "");
    return fields.length === 0 ? "it holds no identity" : `missing or wrong in it: ${fields.slice(0, 5).join(", ")}`;
  }
  return error instanceof SyntaxError ? "it is not JSON" : "the address of the control plane in it is not host:port";
}
