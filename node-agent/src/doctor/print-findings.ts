import type { Finding, Verdict } from "./finding.ts";

const MARKS: Readonly<Record<Verdict, string>> = { ok: "ok", warning: "!", problem: "x", skipped: "-" };
const NAME_WIDTH = 12;

/** One line a finding; trouble has its remedy on a line of its own below. */
export function lineOf(finding: Finding): string {
  const begin = `${MARKS[finding.verdict].padEnd(2)}  ${finding.check.padEnd(NAME_WIDTH)}  `;
  if (!("remedy" in finding)) return `${begin}${finding.text}`;
  const indent = " ".repeat(begin.length);
  return `${begin}${finding.text}; ${finding.matters}\n${indent}→ ${finding.remedy}`;
}

/** Such as "3 problems, 1 warning". */
export function summaryOf(findings: readonly Finding[]): string {
  const { problems, warnings } = countTrouble(findings);
  return `${problems} ${problems === 1 ? "problem" : "problems"}, ${warnings} ${warnings === 1 ? "warning" : "warnings"}`;
}

/** For programs: the findings in order, and how many are trouble. */
export function jsonOf(findings: readonly Finding[]): string {
  return JSON.stringify({ findings, ...countTrouble(findings) }, null, 2);
}

export function countTrouble(findings: readonly Finding[]): { readonly problems: number; readonly warnings: number } {
  const count = (verdict: Verdict): number => findings.filter((finding) => finding.verdict === verdict).length;
  return { problems: count("problem"), warnings: count("warning") };
}
