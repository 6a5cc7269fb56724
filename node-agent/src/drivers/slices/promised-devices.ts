import type { CreateContext, Facts } from "../../ports/slice-driver.ts";

/** What was promised and is not in the list; two devices of one kind are two. */
export function missingOf(promised: readonly string[], seen: readonly string[]): readonly string[] {
  const left = [...seen];
  return promised.filter((device) => {
    const index = left.indexOf(device);
    if (index !== -1) left.splice(index, 1);
    return index === -1;
  });
}

/**
 * Tells the tenant and the journal what came of the devices that were promised; nothing where none were. `unproven`: the guest
 * said nothing of its devices, which an image of the tenant's own need not.
 */
export function tellSeen(
  { report }: Pick<CreateContext, "report">,
  promised: readonly string[],
  seen: readonly string[] | null,
): Facts {
  if (promised.length === 0) return {};
  const list = promised.join(" ");
  report(
    seen === null
      ? `The guest said nothing of its devices: that it sees ${list} is unproven.`
      : `Seen from inside: ${list}.`,
  );
  return { devices: promised, devicesInGuest: seen === null ? "unproven" : "seen" };
}
