import { access } from "node:fs/promises";
import { organizationSchema } from "@hostler/shared/api/identity.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { hostNameSchema } from "@hostler/shared/tasks.ts";
import { makeRandom, type Suite } from "../../support/suite.ts";
import { startTenantedPlane } from "../../support/tenanted-plane.ts";
import { hostileStrings } from "../forge/hostile-strings.ts";
import { askApi, type Asked } from "./ask-api.ts";
import { buildSlice, commandText, type Built } from "./build-slice.ts";
import { openHostileHost } from "./test-host.ts";

/** What many of the texts would make, were one of them ever run. */
const OWNED = "/tmp/owned";

/** Hostile texts in every field that tenants give: refused with a clear word, or carried to a host where they are nothing but text. */
export const hostileSuite: Suite = {
  about: "hostile strings in every tenant-supplied field: no shell, no path escape, nothing but text",
  run: async ({ runs, seed, say }) => {
    const startedMs = performance.now();
    const strings = share(runs ?? Infinity, seed);
    const asked = await askCloud(strings);
    for (const line of asked.wrong) say(line);
    say(`${asked.requests} requests: ${asked.refused} refused, ${asked.travelled} right in every field`);
    const qemu = await buildSlices("qemu", strings, say);
    const container = await buildSlices("container", strings, say);
    return {
      figures: {
        strings: strings.length,
        api_fields: asked.fields,
        api_requests: asked.requests,
        api_refused: asked.refused,
        api_travelled: asked.travelled,
        api_wrong_answers: asked.wrong.length,
        slices_built: qemu.built + container.built,
        machines_started: container.machines,
        texts_on_hosts: qemu.carried + container.carried,
        commands_looked_at: qemu.commands + container.commands,
        escapes: qemu.wrong.length + container.wrong.length,
        duration_s: Math.round((performance.now() - startedMs) / 1000),
      },
      targets: [
        { figure: "strings", atLeast: runs ?? 500 },
        { figure: "api_fields", atLeast: 20 },
        { figure: "api_wrong_answers", atMost: 0 },
        { figure: "slices_built", atLeast: 2 * strings.length },
        { figure: "machines_started", atLeast: runs === null ? 5 : 0 },
        { figure: "escapes", atMost: 0 },
      ],
    };
  },
};

/** So many of the texts, by the seed. */
export function share(count: number, seed: number): readonly string[] {
  const random = makeRandom(seed);
  const shuffled = hostileStrings()
    .map((text) => ({ text, at: random() }))
    .toSorted((a, b) => a.at - b.at);
  return shuffled.slice(0, count).map(({ text }) => text);
}

/** By a real control plane that has an image and no host. */
export async function askCloud(strings: readonly string[]): Promise<Asked> {
  const plane = await startTenantedPlane();
  try {
    const { operator, projectId } = plane;
    await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
    const organization = await operator.post("/api/ops/v1/organizations", { name: "hostile" }, organizationSchema);
    return await askApi({ operator, projectId, organizationId: organization.id }, strings);
  } finally {
    await plane.close();
  }
}

export interface BuiltAll {
  readonly built: number;
  readonly machines: number;
  readonly carried: number;
  readonly commands: number;
  readonly wrong: readonly string[];
}

/** A slice for each text, one after another, by the agent's real phases and driver on a host of its own. */
export async function buildSlices(
  driver: "qemu" | "container",
  strings: readonly string[],
  say: (line: string) => void,
): Promise<BuiltAll> {
  const wasOwned = await isThere(OWNED);
  const host = await openHostileHost();
  try {
    const withMachine = driver === "container";
    const first = await buildSlice(host, { driver, text: "harmless", harmless: "harmless", withMachine });
    const harmless = commandText(host);
    // The image and other things of all slices are there now: whatever comes from here on is a slice's own.
    const wrong = first.wrong.filter(
      (line) => !/^(?:a file that is not the slice's|left behind): (?:state|run)(?:\/|$)/.test(line),
    );
    const sum = { built: 0, machines: 0, carried: 0, commands: 0 };
    for (const text of strings) {
      const startsMachine = withMachine && hostNameSchema.safeParse(text).success;
      const one: Built = await buildSlice(host, { driver, text, harmless, withMachine: startsMachine });
      sum.built += 1;
      sum.machines += startsMachine ? 1 : 0;
      sum.carried += one.carried;
      sum.commands += one.commands;
      // At once: the whole takes long.
      for (const line of one.wrong) say(`${driver}, ${JSON.stringify(text.slice(0, 80))}: ${line}`);
      wrong.push(...one.wrong.map((line) => `${driver}, ${JSON.stringify(text.slice(0, 80))}: ${line}`));
      if (sum.built % 100 === 0) say(`${driver}: ${sum.built} slices`);
    }
    if (!wasOwned && (await isThere(OWNED))) wrong.push(`${OWNED} was made: one of the texts was run`);
    return { ...sum, wrong };
  } finally {
    await host.close();
  }
}

async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
