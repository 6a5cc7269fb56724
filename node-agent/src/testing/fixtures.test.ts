import { isAppError } from "@hostler/shared/errors.ts";
import { describe, expect, test } from "vitest";
import { HEALTH_RULES } from "../gpus/health/health-rules.ts";
import { judgeHealth } from "../gpus/health/judge-health.ts";
import { makeEvidence } from "../gpus/health/testing.ts";
import { parseQueryText } from "../gpus/parse-query-text.ts";
import { parseQueryXml } from "../gpus/parse-query-xml.ts";
import { type QueryLog, readingOfLog } from "../gpus/query-log.ts";
import { listFixtures, readFixture } from "./fixtures.ts";
import { judgeTables, tablesOf } from "./recorded/capture.ts";
import { RECORDINGS } from "./recorded/recordings.ts";

/** Another room's parsers read these. */
const MIG_ROOM = "nvidia-smi/mig/";
/** Kept closed. */
const SEALED = "sealed.bin";

function filesUnder(folder: string): string[] {
  return listFixtures(folder).flatMap((name) => {
    const path = folder === "" ? name : `${folder}/${name}`;
    return name.includes(".") ? [path] : filesUnder(path);
  });
}
const files = filesUnder("").filter((path) => path !== SEALED && !path.startsWith(MIG_ROOM));

describe.skipIf(files.length === 0)("recordings (skipped where they are not beside the repository)", () => {
  test("every recording has an entry and every entry a recording", () => {
    expect(Object.keys(RECORDINGS).toSorted()).toEqual(files.toSorted());
  });

  test.each(Object.entries(RECORDINGS))("%s reads as its README says", (path, [read, facts]) => {
    expect(read(readFixture(path))).toEqual(facts);
  });
});

/** Numbers from 0 up to 1 that follow from the seed. */
function makeChance(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Some cuts of a text by bytes, and the whole of it. */
function* cutsOf(text: string, count: number, chance: () => number): Generator<string> {
  yield text;
  const bytes = Buffer.from(text);
  for (let cut = 1; cut < count; cut += 1)
    yield bytes.subarray(0, Math.floor(chance() * bytes.length)).toString("utf8");
}

/** The GPUs that a judge calls healthy by this log; a typed refusal is none of them, and anything else a failure. */
function healthyIn(parse: (text: string) => QueryLog, text: string, uuids: readonly string[]): string[] {
  let log: QueryLog;
  try {
    log = parse(text);
  } catch (error) {
    if (isAppError(error)) return [];
    throw error;
  }
  const driver = readingOfLog(log);
  return uuids.filter((uuid) => {
    const wanted = [{ uuid, pciAddress: null }];
    return judgeHealth(makeEvidence({ driver, wanted, pciGpus: [] })).state === "healthy";
  });
}

/** One value of every GPU of a log made bad. Where the log does not have it, nothing is planted. */
const PLANTED: readonly (readonly [RegExp, string])[] = [
  [/(Remapping Failure Occurred +: )No|(<remapped_row_failure>)No/g, "Yes"],
  [/(Link Width\n.*\n +Current +: )16x|(<current_link_width>)16x/g, "4x"],
  [/(GPU Current Temp +: )\d+ C|(<gpu_temp>)\d+ C/g, "ERR!"],
  [/(GPU Recovery Action +: )None|(<gpu_recovery_action>)None/g, "Reset"],
  [/(Reset Required +: )No|(<reset_required>)No/g, "Yes"],
  [/(FB Memory Usage\n +Total +: )\d+ MiB|(<fb_memory_usage>\s*<total>)\d+ MiB/g, "Unknown Error"],
];

const LOGS = files
  .filter((path) => /-q(?:-invalid)?\.txt$|\.xml$/.test(path) && path.startsWith("nvidia-smi/"))
  .map((path) => ({ path, parse: path.endsWith(".xml") ? parseQueryXml : parseQueryText }));

describe.skipIf(files.length === 0)("cut recordings (skipped where they are not beside the repository)", () => {
  test("no cut of any log or table is anything but a typed answer, and none makes a faulty GPU healthy", () => {
    const chance = makeChance(20_261_121);
    const tally = { variants: 0, sound: 0, planted: 0 };
    for (const { path, parse } of LOGS) {
      const text = readFixture(path);
      const uuids = [...new Set(text.match(/GPU-[0-9a-f]{8}-[0-9a-f-]{27}/g))];
      const sound = healthyIn(parse, text, uuids);
      tally.sound += sound.length;
      for (const cut of cutsOf(text, 160, chance)) {
        tally.variants += 1;
        const wrong = healthyIn(parse, cut, uuids).filter((uuid) => !sound.includes(uuid));
        expect(wrong, `${path} cut to ${cut.length}`).toEqual([]);
      }
      for (const [pattern, value] of PLANTED) {
        const faulty = text.replaceAll(pattern, (_whole, text1?: string, xml?: string) => `${text1 ?? xml}${value}`);
        if (faulty === text) continue;
        tally.planted += 1;
        for (const cut of cutsOf(faulty, 40, chance)) {
          tally.variants += 1;
          expect(healthyIn(parse, cut, uuids), `${path} with ${pattern.source}, cut to ${cut.length}`).toEqual([]);
        }
      }
    }
    for (const name of listFixtures("nvidia-smi/captures")) {
      const tables = tablesOf(readFixture(`nvidia-smi/captures/${name}`), "idle");
      const [header = "", row = ""] = tables.gpus.split("\n");
      const cells = row.split(", ");
      const uuid = cells[tables.asked.indexOf("uuid")] ?? "";
      for (const { field } of HEALTH_RULES.filter((rule) => tables.asked.includes(rule.field))) {
        const faulty = cells.map((cell, at) => (tables.asked[at] === field ? "[Unknown Error]" : cell));
        tally.planted += 1;
        for (const cut of cutsOf(`${header}\n${faulty.join(", ")}\n`, 40, chance)) {
          tally.variants += 1;
          expect(judgeTables({ ...tables, gpus: cut }, uuid), `${name} without ${field}`).not.toBe("healthy");
        }
      }
    }
    expect(tally.variants).toBeGreaterThanOrEqual(10_000);
    expect(tally.sound).toBeGreaterThan(10);
    expect(tally.planted).toBeGreaterThan(150);
  });
});
