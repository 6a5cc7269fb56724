import { execFile } from "node:child_process";
import { join } from "node:path";

const CLI = join(import.meta.dirname, "../../control-plane/cli/src/main.ts");

/** The command line as a person runs it: it has a home, what it is signed in to, and nothing else of ours. Offline without a `signIn`. */
export async function runHostler(
  args: readonly string[],
  person: { readonly home: string; readonly signIn: { readonly url: string; readonly apiKey: string } | null },
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const { home, signIn } = person;
  const signInEnv = signIn === null ? {} : { HOSTLER_URL: signIn.url, HOSTLER_API_KEY: signIn.apiKey };
  const env = { PATH: process.env["PATH"] ?? "", HOME: home, ...signInEnv };
  return await new Promise((resolve) => {
    const child = execFile(process.execPath, [CLI, ...args], { env }, (_error, stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}
