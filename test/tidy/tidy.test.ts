import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { ALLOWED_LICENSES, licensesOf } from "./licenses.ts";
import { RULES, type SourceFile } from "./rules.ts";

const ROOT = join(import.meta.dirname, "../..");
/** The rules themselves talk about what they forbid. */
const EXEMPT = new Set(["test/tidy/rules.ts", "test/tidy/tidy.test.ts"]);

function sources(): SourceFile[] {
  const listed = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
    cwd: ROOT,
    encoding: "utf8",
  });
  const paths = listed.split("\n").filter((path) => /\.tsx?$/.test(path) && !EXEMPT.has(path));
  return paths.map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
}

describe("each rule holds in the repository", () => {
  const files = sources();
  test.each(RULES.map((rule) => [rule.name, rule] as const))("%s", (_name, rule) => {
    const findings = files.flatMap((file) =>
      rule.check(file).map((found) => `${file.path}: ${found.trim()} — ${rule.remedy}`),
    );
    expect(findings).toEqual([]);
  });
});

test.each(RULES.map((rule) => [rule.name, rule] as const))("a planted violation is caught: %s", (_name, rule) => {
  expect(rule.check(rule.planted)).not.toEqual([]);
});

test("every dependency has a licence that Apache-2.0 software may ship", () => {
  const odd = licensesOf(ROOT).filter(({ license }) => !ALLOWED_LICENSES.has(license));
  expect(odd).toEqual([]);
});

test("the README's table names every dependency of the workspace", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const missing = licensesOf(ROOT).filter(({ name }) => !readme.includes(`\`${name}\``));
  expect(missing.map(({ name }) => name)).toEqual([]);
});

test.each(["ARCHITECTURE.md", "README.md", "DECISIONS.md", "SECURITY.md"])(
  "%s names no file that is not there",
  (name) => {
    const text = readFileSync(join(ROOT, name), "utf8");
    const paths = [...text.matchAll(/`([a-z-]+\/[A-Za-z0-9_./-]+\.(?:ts|tsx|sql|mjs|md))`/g)].map(
      (match) => match[1] ?? "",
    );
    expect(paths.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  },
);
