/**
 * Rules about the code that no linter knows. Each looks at one file's path and text and names what breaks it, with what to do
 * instead. Pure: the tidy test runs them over the repository, and over a planted violation of each.
 */
export interface SourceFile {
  readonly path: string;
  readonly text: string;
}

export interface Rule {
  readonly name: string;
  readonly remedy: string;
  /** The offending pieces of the file; empty when it is fine. */
  check(file: SourceFile): string[];
  /** A file that breaks the rule and nothing else. */
  readonly planted: SourceFile;
}

const isTest = (path: string): boolean =>
  path.endsWith(".test.ts") ||
  path.startsWith("test/") ||
  /\/test-[a-z-]+\.ts$/.test(path) ||
  path.includes("/testing/");
const inside = (path: string, ...folders: readonly string[]): boolean =>
  folders.some((folder) => path.startsWith(folder));
const room = (path: string): string | undefined => /^control-plane\/src\/([a-z-]+)\//.exec(path)?.[1];

/** What a file imports, as written. */
function importsOf(text: string): string[] {
  return [
    ...text.matchAll(
      /(?:^|\n)\s*(?:import|export)\s[^"';]*?from\s+"([^"]+)"|(?:^|\n)\s*import\s+"([^"]+)"|import\("([^"]+)"\)/g,
    ),
  ].map((match) => match[1] ?? match[2] ?? match[3] ?? "");
}

/** Comments and strings taken out, so that words in them break no rule. */
function codeOf(text: string): string {
  return text.replaceAll(/\/\*[\s\S]*?\*\//g, "").replaceAll(/(^|\s)\/\/[^\n]*/g, "$1");
}

function importRule(
  name: string,
  remedy: string,
  planted: SourceFile,
  isForbidden: (path: string, specifier: string) => boolean,
): Rule {
  return {
    name,
    remedy,
    planted,
    check: (file) => importsOf(file.text).filter((specifier) => isForbidden(file.path, specifier)),
  };
}

function textRule(
  name: string,
  remedy: string,
  planted: SourceFile,
  search: { readonly pattern: RegExp; applies(path: string): boolean },
): Rule {
  return {
    name,
    remedy,
    planted,
    check: (file) => (search.applies(file.path) ? (codeOf(file.text).match(search.pattern) ?? []) : []),
  };
}

const isLocal = (specifier: string): boolean => specifier.startsWith(".");

export const RULES: readonly Rule[] = [
  importRule(
    "shared is a leaf",
    "shared imports zod and itself; move the code to the side that needs more.",
    { path: "shared/src/x.ts", text: 'import { readFile } from "node:fs/promises";' },
    (path, specifier) => inside(path, "shared/") && !isTest(path) && !isLocal(specifier) && specifier !== "zod",
  ),
  importRule(
    "pki does no I/O",
    "pki imports shared, jose, node-forge, zod and node:crypto; files and sockets belong to its callers.",
    { path: "pki/src/x.ts", text: 'import { connect } from "node:tls";' },
    (path, specifier) =>
      inside(path, "pki/") &&
      !isTest(path) &&
      !isLocal(specifier) &&
      !/^(?:@hostler\/shared\/.*|jose|node-forge|zod|node:crypto)$/.test(specifier),
  ),
  importRule(
    "control plane and agent never import each other",
    "Put what both need into shared or pki.",
    { path: "control-plane/src/x.ts", text: 'import { x } from "@hostler/node-agent/x.ts";' },
    (path, specifier) =>
      (inside(path, "control-plane/") && /@hostler\/node-agent|node-agent\/src/.test(specifier)) ||
      (inside(path, "node-agent/") && /@hostler\/control-plane|control-plane\/src/.test(specifier)),
  ),
  importRule(
    "console and command line know only the public API",
    "They import @hostler/shared and their own packages; ask the API for the rest.",
    { path: "control-plane/console/src/x.ts", text: 'import { x } from "@hostler/pki";' },
    (path, specifier) =>
      (inside(path, "control-plane/console/") && /^@hostler\/(?!shared\/)/.test(specifier)) ||
      // What a control plane signed is verified away from it, so the command line has the pure half of it.
      (inside(path, "control-plane/cli/") && /^@hostler\/(?!shared\/|pki$)/.test(specifier)),
  ),
  importRule(
    "a room's store is its own",
    "Call a use case of that room; its tables are not yours.",
    { path: "control-plane/src/terminals/x.ts", text: 'import { findAllocation } from "../allocations/store.ts";' },
    (path, specifier) => {
      const target = /^\.\.\/([a-z-]+)\/[a-z-]*store\.ts$/.exec(specifier)?.[1];
      // Every room writes what happened in its own transaction; the log's store is open to all.
      return target !== undefined && target !== room(path) && target !== "audit" && !isTest(path);
    },
  ),
  textRule(
    "SQL lives in stores",
    "Move the statement into the room's store.ts.",
    { path: "control-plane/src/nodes/x.ts", text: "await sql`select 1`;" },
    {
      pattern: /\b(?:sql|tx|db)(?:<[^`]*>)?`/g,
      applies: (path) =>
        inside(path, "control-plane/src/") &&
        !inside(path, "control-plane/src/db/") &&
        !/store\.ts$|health-routes\.ts$/.test(path) &&
        !isTest(path),
    },
  ),
  textRule(
    "a model is pure",
    "model.ts computes; await, clocks and loggers belong to its callers.",
    { path: "node-agent/src/journal/model.ts", text: "export async function x() { await y(); }" },
    { pattern: /\bawait\b|\bclock\.|\blog\./g, applies: (path) => path.endsWith("/model.ts") },
  ),
  textRule(
    "only config reads the environment",
    "Add the variable to config.ts and take it as an argument.",
    { path: "node-agent/src/x.ts", text: 'const x = process.env["X"];' },
    {
      pattern: /process\.env\b/g,
      applies: (path) =>
        inside(path, "control-plane/src/", "control-plane/cli/src/", "node-agent/src/") &&
        !/\/config\.ts$|host-commands\.ts$|embedded-postgres\.ts$|test-/.test(path) &&
        !isTest(path),
    },
  ),
  textRule(
    "time comes through the clock",
    "Take a Clock; only shared/src/clock.ts reads the real one.",
    { path: "control-plane/src/x.ts", text: "const now = Date.now();" },
    {
      pattern: /\bDate\.now\(\)|\bnew Date\(\)/g,
      applies: (path) =>
        inside(path, "shared/", "pki/", "control-plane/src/", "node-agent/") &&
        path !== "shared/src/clock.ts" &&
        !isTest(path),
    },
  ),
  textRule(
    "no barrels",
    "Import from the file that has it.",
    { path: "shared/src/x.ts", text: 'export * from "./y.ts";' },
    { pattern: /^export \*/gm, applies: (path) => path !== "pki/src/index.ts" },
  ),
  textRule(
    "zod is imported whole",
    'Write import * as z from "zod": the named import keeps all of it in a bundle.',
    { path: "shared/src/x.ts", text: 'import { z } from "zod";' },
    { pattern: /import \{[^}]*\bz\b[^}]*\} from "zod"/g, applies: () => true },
  ),
  {
    name: "work to do has an issue",
    remedy: "Write TODO(#12), or do it now; FIXME does not reach main.",
    planted: { path: "shared/src/x.ts", text: ["// TO", "DO later"].join("") },
    check: (file) => file.text.match(/\bTODO(?!\(#\d+\))|\bFIXME\b/g) ?? [],
  },
];
