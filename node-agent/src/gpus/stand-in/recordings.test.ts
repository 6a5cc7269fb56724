import { afterEach, describe, expect, test } from "vitest";
import { listFixtures, readFixture } from "../../testing/fixtures.ts";
import { LOST, UNKNOWN_ERROR } from "./faults.ts";
import { setFault, type StandInPlan } from "./install-stand-in.ts";
import { readState } from "./state.ts";
import { openTestStandIn, type TestStandIn } from "./test-stand-in.ts";

/**
 * The stand-in is brought into the state of a recorded host and asked what was asked there; its answer must be the recorded
 * one, white space included. UUIDs of MIG devices are not compared: how the driver makes them is not known.
 *
 * Left out, because the stand-in does not have them: the default table (`nvidia-smi -i 0`, errors/gpud-525.125.06-table.txt),
 * `-q` as text (errors/gpud-535.183.01-q-invalid.txt), the device files of the A100 session, and the refusal for want of
 * permission in mig-enable-messages.txt (it asks nobody who they are). Whole answers of `-q -x` are left out for the same
 * reason: it prints a part of them.
 */
const open: TestStandIn[] = [];

async function standIn(plan: StandInPlan): Promise<TestStandIn> {
  const made = await openTestStandIn(plan);
  open.push(made);
  return made;
}

afterEach(async () => {
  for (const made of open.splice(0)) await made.close();
});

interface Step {
  readonly argv: readonly string[];
  readonly lines: readonly string[];
}

/** A session as its commands with their answers. Remarks of whoever recorded it are not part of an answer. */
function stepsOf(text: string): Step[] {
  const steps: { argv: readonly string[]; lines: string[] }[] = [];
  for (const line of text.split("\n")) {
    const command = /^(?:root@\S+# |# \$ |\$ )(?:sudo )?(\S+)\s*([^(]*)/.exec(line);
    if (command !== null) {
      const isOurs = command[1] === "nvidia-smi";
      steps.push({ argv: isOurs ? (command[2] ?? "").trim().split(/ +/) : [], lines: [] });
    } else if (!line.startsWith("# ")) steps.at(-1)?.lines.push(line);
  }
  return steps
    .filter(({ argv }) => argv.length > 0)
    .map(({ argv, lines }) => ({ argv, lines: lines.slice(0, lines.findLastIndex((line) => line !== "") + 1) }));
}

const sessionOf = (name: string): Step[] => stepsOf(readFixture(`nvidia-smi/mig/${name}`));
/** A GPU has the UUID of the recorded one, so that whole lines can be compared. */
const uuidIn = (name: string): string => /GPU-[0-9a-fx-]{36}/.exec(readFixture(`nvidia-smi/mig/${name}`))?.[0] ?? "";
const withoutMigUuids = (lines: readonly string[]): string[] =>
  lines.map((line) => line.replace(/MIG-[0-9a-f-]+/, "MIG"));
const linesOf = (path: string): string[] => readFixture(path).trimEnd().split("\n");

async function replay(host: TestStandIn, steps: readonly Step[]): Promise<void> {
  expect(steps.length).toBeGreaterThan(0);
  for (const { argv, lines } of steps) {
    const { stdout } = await host.run(...argv);
    expect(withoutMigUuids(stdout.trimEnd().split("\n")), argv.join(" ")).toEqual(withoutMigUuids(lines));
  }
}

describe.skipIf(listFixtures("nvidia-smi/mig").length === 0)(
  "recorded MIG sessions (skipped where the recordings are not beside the repository)",
  () => {
    test("h100-80gb-session-lgip-lgipp-cgi-lgi-lci-dci-dgi.txt is answered as it was", async () => {
      const steps = sessionOf("h100-80gb-session-lgip-lgipp-cgi-lgi-lci-dci-dgi.txt");
      const uuid = uuidIn("h100-80gb-session-lgip-lgipp-cgi-lgi-lci-dci-dgi.txt");
      const host = await standIn({
        driverVersion: "535.104.05",
        gpus: [{ card: "h100", busId: "00000000:16:00.0", uuid }],
      });
      expect(steps).toHaveLength(10);
      await replay(host, steps);
    });

    test("rtxpro6000-blackwell-mig1-lgip-lgipp.txt is answered as it was", async () => {
      const host = await standIn({ gpus: [{ card: "rtx-pro-6000", persistence: false }] });
      await replay(host, sessionOf("rtxpro6000-blackwell-mig1-lgip-lgipp.txt"));
    });

    test("a100-40gb-580-mixed-ci-lgi-lci-L-table-caps.txt is answered as it was, but for the table and the files", async () => {
      const uuid = uuidIn("a100-40gb-580-mixed-ci-lgi-lci-L-table-caps.txt");
      const host = await standIn({ gpus: [{ card: "a100-40gb", busId: "00000000:10:1C.0", uuid }] });
      await host.lines("-i", "0", "-mig", "1");
      await host.lines("-i", "0", "-r");
      await host.lines("mig", "-cgi", "5", "-C");
      await host.lines("mig", "-cgi", "14,19");
      await host.lines("mig", "-cci", "0,0", "-gi", "3");
      const steps = sessionOf("a100-40gb-580-mixed-ci-lgi-lci-L-table-caps.txt");
      await replay(
        host,
        steps.filter(({ argv }) => argv.length > 2),
      );
    });

    test("a100-40gb-cgi-lgi-3g20gb.txt, of an old driver with narrow tables, is answered as it was", async () => {
      const old = await standIn({ driverVersion: "450.80.02", gpus: [{ card: "a100-40gb" }] });
      await old.lines("-mig", "1");
      await old.lines("-r");
      await replay(old, sessionOf("a100-40gb-cgi-lgi-3g20gb.txt"));
    });

    test("a30-lgip-lgipp-lgi-full.txt, a card with no room left, is answered as it was", async () => {
      const host = await standIn({ driverVersion: "535.104.05", gpus: [{ card: "a30" }] });
      await host.lines("-mig", "1");
      await host.lines("-r");
      await host.lines("mig", "-cgi", "14,14,14,14");
      await replay(host, sessionOf("a30-lgip-lgipp-lgi-full.txt"));
    });

    test("a30-session-create-lcip-list.txt is answered as it was, with the instance that it does not show being made", async () => {
      const uuid = uuidIn("a30-session-create-lcip-list.txt");
      const host = await standIn({ driverVersion: "535.104.05", gpus: [{ card: "a30", uuid }] });
      await host.lines("-mig", "1");
      await host.lines("-r");
      const steps = sessionOf("a30-session-create-lcip-list.txt");
      await replay(host, steps.slice(0, -1));
      await host.lines("mig", "-cgi", "14", "-C");
      await replay(host, steps.slice(-1));
    });

    test("h100-nvl-94gb-lgip-lgipp.txt and h100-94gb-lci-1g24gb-ci-profile-7.txt are answered as they were", async () => {
      const host = await standIn({ driverVersion: "535.104.05", gpus: [{ card: "h100-nvl" }] });
      await host.lines("-mig", "1");
      const lists = [...(await host.lines("mig", "-lgip")), ...(await host.lines("mig", "-lgipp"))];
      expect(lists).toEqual(linesOf("nvidia-smi/mig/h100-nvl-94gb-lgip-lgipp.txt"));
      await host.lines("mig", "-cgi", "15", "-C");
      expect(await host.lines("mig", "-lci")).toEqual(linesOf("nvidia-smi/mig/h100-94gb-lci-1g24gb-ci-profile-7.txt"));
    });

    test("mig-enable-messages.txt: an A100 waits for a reset, a Hopper changes at once and warns", async () => {
      const [pending, immediate] = sessionOf("mig-enable-messages.txt");
      expect(pending?.argv).toEqual(["-i", "0", "-mig", "1"]);
      const ampere = await standIn({ gpus: [{ card: "a100-40gb", busId: "00000000:00:03.0" }] });
      const hopper = await standIn({ gpus: [{ card: "h100", busId: "00000009:01:00.0", persistence: false }] });
      expect(await ampere.lines("-i", "0", "-mig", "1")).toEqual(pending?.lines);
      expect(await hopper.lines("-mig", "1")).toEqual(immediate?.lines);
    });

    test("rtxpro6000-blackwell-x8-32mig-L.txt: eight GPUs with 32 instances are listed as they were", async () => {
      const recorded = linesOf("nvidia-smi/mig/rtxpro6000-blackwell-x8-32mig-L.txt");
      const uuids = recorded.flatMap((line) => /^GPU .*UUID: ([^)]+)/.exec(line)?.[1] ?? []);
      expect(uuids).toHaveLength(8);
      const host = await standIn({ gpus: uuids.map((uuid) => ({ card: "rtx-pro-6000", uuid })) });
      await host.lines("-mig", "1");
      await host.lines("mig", "-cgi", "14,14,14,14", "-C");
      expect(withoutMigUuids(await host.lines("-L"))).toEqual(withoutMigUuids(recorded));
    });
  },
);

describe.skipIf(listFixtures("nvidia-smi/errors").length === 0)(
  "recorded failures (skipped where the recordings are not beside the repository)",
  () => {
    test.each([
      ["gpu-is-lost.txt", "00000000:02:00.0", LOST, 15],
      ["device-handle-unknown-error.txt", "00000000:0B:00.0", UNKNOWN_ERROR, 255],
    ])("%s is what every question about a lost GPU is answered", async (name, busId, reason, exitCode) => {
      const host = await standIn({ gpus: [{ card: "h100" }, { card: "h100", busId }] });
      const lost = (await readState(host.statePath)).gpus[1]?.uuid ?? null;
      await setFault(host.statePath, { kind: "lost", gpu: lost, reason });
      for (const argv of [["-L"], ["--query-gpu=uuid", "--format=csv"], ["-i", "1", "-mig", "1"], ["mig", "-lgip"]]) {
        const answer = await host.run(...argv);
        expect([answer.stdout, answer.exitCode]).toEqual([readFixture(`nvidia-smi/errors/${name}`), exitCode]);
      }
      expect((await host.run("-i", "0", "--query-gpu=index", "--format=csv,noheader")).stdout).toBe("0\n");
    });

    test("nvml-driver-library-mismatch.txt is the answer of a half-done upgrade", async () => {
      const host = await standIn({ gpus: [{ card: "h100" }] });
      await setFault(host.statePath, { kind: "library_mismatch", libraryVersion: "580.173" });
      const { stdout, exitCode } = await host.run("-L");
      expect(stdout.trimEnd()).toBe(readFixture("nvidia-smi/errors/nvml-driver-library-mismatch.txt").trimEnd());
      expect(exitCode).toBe(18);
    });

    test("gpu-reset-in-use.txt is the refusal of a reset under running processes", async () => {
      const buses = ["01", "47", "81", "C2"].map((bus) => `00000000:${bus}:00.0`);
      const host = await standIn({ gpus: buses.map((busId) => ({ card: "a100-80gb", busId })) });
      await setFault(host.statePath, { kind: "process", pid: 4711, name: "python3", memoryMib: 512 });
      const { stdout, exitCode } = await host.run("-r");
      expect(stdout.trimEnd()).toBe(readFixture("nvidia-smi/errors/gpu-reset-in-use.txt").trimEnd());
      expect(exitCode).not.toBe(0);
    });
  },
);

/** Of values that move with time and load, that were masked, or that follow from the other hardware of the recorded host. */
const MOVING = new Set([
  "timestamp",
  "serial",
  "accounting.mode",
  "memory.used",
  "memory.free",
  "utilization.gpu",
  "utilization.memory",
  "temperature.gpu",
  "power.draw",
  "clocks.current.sm",
  "platform.module_id",
]);
const MASKED_UUID = "GPU-00000000-0000-0000-0000-000000000000";

describe.skipIf(listFixtures("nvidia-smi/captures").length === 0)(
  "recorded machines (skipped where the recordings are not beside the repository)",
  () => {
    test.each([
      ["linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt", "h100", "00000000:00:09.0", []],
      ["linux-x86_64__nvidia-h100-mig__590.48.01.txt", "h100", "00000000:00:09.0", ["9", "14", "19", "19"]],
      ["linux-x86_64__nvidia-h200__590.48.01.txt", "h200", "00000000:83:00.0", []],
      ["linux-x86_64__nvidia-l40s__595.80.txt", "l40s", "00000000:01:00.0", []],
    ] as const)(
      "%s: version, list, fields, their headers, values and units are as they were",
      async (name, card, busId, profiles) => {
        const text = readFixture(`nvidia-smi/captures/${name}`);
        const sections = sectionsOf(text);
        const [driverVersion = "", cudaVersion = ""] = ["DRIVER", "CUDA"].map(
          (word) => new RegExp(`^${word} version *: (.*)$`, "im").exec(text)?.[1] ?? "",
        );
        const persistence = card !== "l40s";
        const plan = { driverVersion, cudaVersion, gpus: [{ card, busId, uuid: MASKED_UUID, persistence }] };
        const host = await standIn(plan);
        if (profiles.length > 0) await host.lines("-mig", "1");
        if (profiles.length > 0) await host.lines("mig", "-cgi", profiles.join(","), "-C");

        expect(await host.lines("--version")).toEqual(sections.get("nvidia-smi --version"));
        expect(withoutMigUuids(await host.lines("-L"))).toEqual(withoutMigUuids(sections.get("nvidia-smi -L") ?? []));

        const known = headingsOf(sections.get("nvidia-smi --help-query-gpu") ?? []);
        const ours = headingsOf(await host.lines("--help-query-gpu"));
        expect(ours.filter((heading) => !known.includes(heading))).toEqual([]);

        const fields = ours
          .map((heading) => /"([^"]+)"/.exec(heading)?.[1] ?? "")
          .filter((field) => !MOVING.has(field));
        const [header = [], values = []] = (
          [...sections].find(([command]) => command.startsWith("nvidia-smi --query-gpu="))?.[1] ?? []
        ).map((line) => line.split(", "));
        const at = fields.map((field) => header.findIndex((column) => column.replace(/ \[.*/, "") === field));
        const recorded = [at.map((column) => header[column]), at.map((column) => values[column])];
        const answered = await host.lines(`--query-gpu=${fields.join(",")}`, "--format=csv");
        expect(answered.map((line) => line.split(", "))).toEqual(recorded);
        expect(fields.length).toBeGreaterThan(40);
      },
    );

    test("linux-x86_64__nvidia-h100-mig__590.48.01.txt: running processes are listed as they were", async () => {
      const text = readFixture("nvidia-smi/captures/linux-x86_64__nvidia-h100-mig__590.48.01.txt");
      const loaded = text.slice(text.indexOf("# load :: query-compute-apps"));
      const [command = "", recorded = []] = [...sectionsOf(loaded)][0] ?? [];
      const host = await standIn({ gpus: [{ card: "h100", busId: "00000000:00:09.0", uuid: MASKED_UUID }] });
      for (const row of recorded.slice(1)) {
        const [, , , , , pid, name = "", memory = ""] = row.split(", ");
        await setFault(host.statePath, {
          kind: "process",
          pid: Number(pid),
          name,
          memoryMib: Number.parseInt(memory, 10),
        });
      }
      const withoutTimeAndSerial = (lines: readonly string[]): string[] =>
        lines.map((line) =>
          line.replace(/^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d\.\d{3}, /, "now, ").replace(/, \d{13}, /, ", serial, "),
        );
      const answered = await host.lines(...command.split(" ").slice(1));
      expect(withoutTimeAndSerial(answered)).toEqual(withoutTimeAndSerial(recorded));
      expect(answered).toHaveLength(4);
    });
  },
);

/** The answers of a recorded machine by command, the first of each. */
function sectionsOf(text: string): Map<string, string[]> {
  const sections = new Map<string, string[]>();
  for (const [, command = "", body = ""] of text.matchAll(
    /^# \$ (nvidia-smi.*)\n#+\n([\s\S]*?)(?=\n\n\n#####|\n*$(?![\s\S]))/gm,
  )) {
    if (!sections.has(command.trim())) sections.set(command.trim(), body.split("\n"));
  }
  return sections;
}

function headingsOf(lines: readonly string[]): string[] {
  return lines.filter((line) => line.startsWith('"'));
}
