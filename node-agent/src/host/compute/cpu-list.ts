/** A list of CPUs or NUMA nodes as the kernel writes it, such as `0-3,8`; null when it is none. Empty text is an empty list. */
export function parseCpuList(text: string): readonly number[] | null {
  if (text.trim() === "") return [];
  const numbers = new Set<number>();
  for (const part of text.trim().split(",")) {
    const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part) ?? [];
    if (first === undefined || Number(last) < Number(first)) return null;
    for (let number = Number(first); number <= Number(last); number += 1) numbers.add(number);
  }
  return [...numbers].toSorted((a, b) => a - b);
}

/** The same the other way round: `0-3,8`. */
export function formatCpuList(numbers: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const number of numbers.toSorted((a, b) => a - b)) {
    const last = ranges.at(-1);
    if (last !== undefined && number === last[1] + 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}
