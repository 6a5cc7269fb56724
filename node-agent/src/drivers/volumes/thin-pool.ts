/** A thin pool of LVM, which its operator made: `lvcreate --type thin-pool`. */
export interface ThinPool {
  readonly group: string;
  readonly pool: string;
}

/** lvm2 takes names of these; a hyphen is doubled in the kernel's names, which are not ours. */
const NAME = "[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,62}";
const POOL = new RegExp(`^(${NAME})/(${NAME})$`);

/** `GROUP/POOL`; null for anything else. */
export function parseThinPool(text: string): ThinPool | null {
  const [, group, pool] = POOL.exec(text) ?? [];
  return group === undefined || pool === undefined ? null : { group, pool };
}
