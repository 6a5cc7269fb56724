export type Verdict = "ok" | "warning" | "problem" | "skipped";

interface Trouble {
  /** What is wrong, in plain words. */
  readonly text: string;
  /** Why that matters, in a clause. */
  readonly matters: string;
  /** The command or act that mends it. */
  readonly remedy: string;
}

/** What a check says of one thing. `skipped` names why nobody looked. */
export type Outcome =
  | { readonly verdict: "ok" | "skipped"; readonly text: string }
  | ({ readonly verdict: "warning" | "problem" } & Trouble);

/** An outcome with the check that it is from; what `--json` prints. */
export type Finding = Outcome & { readonly check: string };

export function ok(text: string): Outcome {
  return { verdict: "ok", text };
}

export function skipped(why: string): Outcome {
  return { verdict: "skipped", text: why };
}

export function problem(trouble: Trouble): Outcome {
  return { verdict: "problem", ...trouble };
}

export function warning(trouble: Trouble): Outcome {
  return { verdict: "warning", ...trouble };
}
