import * as z from "zod";

const profileSchema = z.object({
  nodes: z.array(
    z.object({
      id: z.int(),
      callFrame: z.object({ functionName: z.string(), url: z.string(), lineNumber: z.int() }),
      children: z.array(z.int()).optional(),
    }),
  ),
  samples: z.array(z.int()),
  timeDeltas: z.array(z.int()),
});
type Frame = z.infer<typeof profileSchema>["nodes"][number]["callFrame"];

const SHOWN = { rooms: 40, own: 60, withCallees: 120 };

/** What `node --cpu-prof` wrote, as tables: time by package or room, by function, and by function with all that it called. */
export function summarizeCpuProfile(text: string): string {
  const profile = profileSchema.parse(JSON.parse(text));
  const frames = new Map(profile.nodes.map((node) => [node.id, node.callFrame]));
  const callers = new Map(profile.nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node.id])));
  const own = new Map<string, number>();
  const withCallees = new Map<string, number>();
  const rooms = new Map<string, number>();
  let totalMs = 0;
  for (const [at, id] of profile.samples.entries()) {
    const ms = (profile.timeDeltas[at] ?? 0) / 1000;
    const frame = frames.get(id);
    if (frame === undefined || frame.functionName === "(idle)") continue;
    totalMs += ms;
    add(own, nameOf(frame), ms);
    add(rooms, roomOf(frame), ms);
    const names = new Set<string>();
    for (let up: number | undefined = id; up !== undefined; up = callers.get(up)) {
      const caller = frames.get(up);
      if (caller !== undefined) names.add(nameOf(caller));
    }
    for (const name of names) add(withCallees, name, ms);
  }
  const table = (title: string, times: ReadonlyMap<string, number>, count: number): string[] => [
    `--- ${title}`,
    ...[...times]
      .toSorted(([, a], [, b]) => b - a)
      .slice(0, count)
      .map(
        ([name, ms]) => `${((100 * ms) / totalMs).toFixed(1).padStart(6)} % ${ms.toFixed(0).padStart(7)} ms  ${name}`,
      ),
  ];
  return [
    `${totalMs.toFixed(0)} ms busy`,
    ...table("packages and rooms", rooms, SHOWN.rooms),
    ...table("functions", own, SHOWN.own),
    ...table("functions with what they called", withCallees, SHOWN.withCallees),
    "",
  ].join("\n");
}

function add(times: Map<string, number>, key: string, ms: number): void {
  times.set(key, (times.get(key) ?? 0) + ms);
}

function nameOf({ functionName, url, lineNumber }: Frame): string {
  return `${functionName === "" ? "(anonymous)" : functionName} ${shorten(url)}:${lineNumber + 1}`;
}

function roomOf({ functionName, url }: Frame): string {
  if (url === "") return functionName.startsWith("(") ? functionName : "native";
  if (url.startsWith("node:")) return url;
  return /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1] ?? shorten(url).split("/").slice(0, 3).join("/");
}

const ROOT = new URL("../../../", import.meta.url).href;

function shorten(url: string): string {
  return url.replace(/^.*node_modules\//, "").replace(ROOT, "");
}
