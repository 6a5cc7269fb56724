/**
 * How copies of an identity are noticed. Every start of an agent asks for a session with the one it had before, and keeps the new
 * one on disk before it uses it. So the holder of the identity always comes with the newest number; a copy of its disk comes
 * with one that was replaced.
 *
 *   start with the newest             → the next number, unconfirmed
 *   start with the one before, while
 *     the newest was never used       → the next number: an answer got lost, or a crash came before it was on disk
 *   start with a higher one, ours     → the next above it: the database was restored from a backup
 *   the very start that made the newest
 *     (same instance, same one before) → the newest again: the request was sent twice, or reached us late. An instance is
 *     random and never on disk, so a copy of the disk cannot be taken for it
 *   start with anything older         → two holders: both are frozen, unless an operator declared a restore of the host
 *
 * Pure.
 */
export interface SessionRecord {
  readonly session: number;
  /** What `session` was made from. */
  readonly from: number;
  /** Whether a request came with `session`. */
  readonly confirmed: boolean;
  readonly isRestoreExpected: boolean;
  /** The start of the agent that `session` was made for; null when there was none. */
  readonly instance: string | null;
}

export interface Start {
  /** The session that it comes with; 0 when it never had one. */
  readonly previous: number;
  readonly instance: string;
}

export type StartVerdict =
  | { readonly kind: "next"; readonly session: number; readonly from: number }
  /** It has its session already. */
  | { readonly kind: "again"; readonly session: number }
  | { readonly kind: "copy" };

/** What a start is given. */
export function judgeStart(record: SessionRecord, { previous, instance }: Start): StartVerdict {
  const isNewest = previous >= record.session;
  if (!isNewest && instance === record.instance && previous === record.from)
    return { kind: "again", session: record.session };
  const isLostAnswer = !record.confirmed && previous === record.from;
  if (!isNewest && !isLostAnswer && !record.isRestoreExpected) return { kind: "copy" };
  return { kind: "next", session: Math.max(record.session, previous) + 1, from: previous };
}

/**
 * What a request is worth that comes with a session: `confirm` when it is the newest and used for the first time, `adopt` when it
 * is above what the database has. The one before counts until the newest was used.
 */
export function judgeUse(
  record: Omit<SessionRecord, "isRestoreExpected" | "instance">,
  used: number,
): "good" | "confirm" | "adopt" | "superseded" {
  if (used > record.session) return "adopt";
  if (used === record.session) return record.confirmed ? "good" : "confirm";
  return !record.confirmed && used === record.from ? "good" : "superseded";
}
