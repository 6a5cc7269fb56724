import type { Facts } from "../../ports/slice-driver.ts";

/** What was promised and is not in the list; two devices of one kind are two. */
export function missingOf(promised: readonly string[], seen: readonly string[]): readonly string[] {
  const left = [...seen];
  return promised.filter((device) => {
    const index = left.indexOf(device);
    if (index !== -1) left.splice(index, 1);
    return index === -1;
  });
}

/** For the journal and the tenant; nothing where nothing was promised. A guest that said nothing of its devices proves nothing. */
export function factsOfSeen(promised: readonly string[], seen: readonly string[] | null): Facts {
  return promised.length === 0 ? {} : { devices: promised, devicesInGuest: seen === null ? "unproven" : "seen" };
}
