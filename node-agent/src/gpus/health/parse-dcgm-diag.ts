import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { Finding } from "./judge-health.ts";

/** One test of `dcgmi diag` on one or more GPUs of the host, by index. */
export interface DcgmResult {
  readonly category: string;
  readonly test: string;
  readonly gpuIndexes: readonly number[];
  readonly status: string;
  readonly words: string;
}

/** "0,1,2", 3 or "3", by version. */
const indexesSchema = z
  .union([z.number().int().min(0), z.string().regex(/^\d+(?:,\d+)*$/)])
  .transform((ids) => String(ids).split(",").map(Number));
const wordsSchema = z
  .union([z.string(), z.array(z.unknown())])
  .transform((words) => JSON.stringify(words).slice(0, 1000));

const resultSchema = z.object({
  gpu_ids: indexesSchema.optional(),
  status: z.string().min(1).max(50),
  warnings: wordsSchema.optional(),
  info: wordsSchema.optional(),
});
const testSchema = z.object({ name: z.string(), results: z.array(resultSchema.nullable()) });
const categorySchema = z.object({ category: z.string(), tests: z.array(testSchema.nullable()) });
const answerSchema = z.object({
  "DCGM GPU Diagnostic": z.object({ version: z.string(), test_categories: z.array(categorySchema.nullable()) }),
});

/** Reads `dcgmi diag -r N -j`. DCGM 3 writes a warning ahead of its JSON, and null between the items of its lists. */
export function parseDcgmDiag(output: string): { readonly version: string; readonly results: readonly DcgmResult[] } {
  const answer = answerSchema.safeParse(jsonIn(output));
  if (!answer.success) throw refusal(z.prettifyError(answer.error));
  const { version, test_categories: categories } = answer.data["DCGM GPU Diagnostic"];
  const results = present(categories).flatMap(({ category, tests }) =>
    present(tests).flatMap(({ name, results: ofTest }) =>
      present(ofTest).map(({ gpu_ids: gpuIndexes = [], status, warnings = "", info = "" }) => ({
        category,
        test: name,
        gpuIndexes,
        status,
        words: warnings || info,
      })),
    ),
  );
  if (results.length === 0) throw refusal("it has no result");
  return { version, results };
}

const SOUND = new Set(["PASS", "SKIP", "SKIPPED", "NOT RUN"]);

/** Every result that is no pass. `uuids` are the host's GPUs by index; a result for none of them is about the host. */
export function judgeDcgm(results: readonly DcgmResult[], uuids: ReadonlyMap<number, string>): Finding[] {
  return results
    .filter(({ status }) => !SOUND.has(status.toUpperCase()))
    .flatMap(({ category, test, gpuIndexes, status, words }) => {
      const about = gpuIndexes.map((index) => uuids.get(index) ?? null);
      return (about.length === 0 ? [null] : about).map((gpuUuid): Finding => ({
        code: "dcgm_failed",
        gpuUuid,
        cure: "replace",
        failureClass: gpuUuid === null ? "host" : "device",
        sentence: `DCGM's test ${test} (${category}) ended with ${status}: ${words || "no words"}. See dcgmi diag on the host.`,
      }));
    });
}

function present<T>(items: readonly (T | null)[]): T[] {
  return items.filter((item): item is T => item !== null);
}

function jsonIn(output: string): unknown {
  const start = output.search(/^\s*\{/m);
  try {
    return JSON.parse(start < 0 ? "" : output.slice(start));
  } catch {
    throw refusal(output.trim().slice(0, 300) || "it is empty");
  }
}

function refusal(why: string): AppError {
  return new AppError("command_failed", { detail: `dcgmi diag cannot be read: ${why.slice(0, 600)}` });
}
