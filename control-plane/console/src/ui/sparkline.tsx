import type { JSX } from "preact";

const WIDTH = 240;
const HEIGHT = 40;

/** Values as a line, oldest left; a gap where there is none. */
export function Sparkline({
  values,
  max,
}: {
  readonly values: readonly (number | null)[];
  readonly max: number;
}): JSX.Element {
  const step = WIDTH / Math.max(1, values.length - 1);
  let isGap = true;
  const commands = values.map((value, index) => {
    if (value === null) {
      isGap = true;
      return "";
    }
    // A lone value is a dot: a line of no length with round ends.
    const command = `${isGap ? "M" : "L"}${(index * step).toFixed(1)} ${(HEIGHT - (HEIGHT * Math.min(value, max)) / max).toFixed(1)}${isGap ? "h0" : ""}`;
    isGap = false;
    return command;
  });
  const newest = values.findLast((value) => value !== null);
  return (
    <svg
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
      height={HEIGHT}
      role="img"
      aria-label={`now ${newest ?? "unknown"}`}
    >
      <path d={commands.join(" ")} fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" />
    </svg>
  );
}
