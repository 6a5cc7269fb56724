import type { ProgramFault } from "./faulty-programs.ts";
import type { Expectation, HostCase } from "./host-case.ts";
import type { Driver } from "./stage.ts";

const SAID = "the fault of this drill";

interface Row {
  readonly driver: Driver;
  readonly program: string;
  /** Which of its calls: those of the slice's way up, not the agent's looks at the host. */
  readonly when?: string;
  readonly on: Partial<Record<ProgramFault["how"], Expectation>>;
  readonly isFirstUse?: boolean;
}

const missing = (program: string, debianPackage: string): Expectation => ({
  end: "failed",
  class: "permanent",
  code: "driver_unavailable",
  words: [new RegExp(`program ${program} is not installed`), new RegExp(`apt-get install ${debianPackage}`)],
});
const failed = (...words: readonly RegExp[]): Expectation => ({
  end: "failed",
  class: "permanent",
  code: "command_failed",
  words,
});
/** It was killed at its deadline, and the phase did it again. */
const again = (program: string, seconds: number): Expectation => ({
  end: "active",
  words: [new RegExp(`${program} did not end within ${seconds} s and was killed`)],
});
const triedAgain = (...words: readonly RegExp[]): Expectation => ({
  end: "tried again",
  code: "machine_exited",
  words,
});
const said = new RegExp(SAID);

/** Each program of the host, each way to go wrong, and what must come of it. */
const ROWS: readonly Row[] = [
  {
    driver: "qemu",
    program: "qemu-img",
    isFirstUse: true,
    // It is confined by other programs, which would find the host's own instead of a missing one.
    on: {
      fails: failed(/is refused/, said),
      lies: failed(/is refused/, /qemu-img cannot read it/),
      "prints rubbish": failed(/is refused/, /qemu-img cannot read it/),
    },
  },
  {
    driver: "qemu",
    program: "genisoimage",
    on: {
      missing: missing("genisoimage", "genisoimage"),
      fails: failed(/genisoimage/, said),
      hangs: again("genisoimage", 15),
      lies: failed(/seed/),
      "prints rubbish": failed(/seed/),
    },
  },
  {
    driver: "qemu",
    program: "ssh-keygen",
    on: {
      missing: missing("ssh-keygen", "openssh-client"),
      fails: failed(/ssh-keygen/, said),
      hangs: again("ssh-keygen", 15),
      lies: failed(/ssh-keygen|key/),
      "prints rubbish": failed(/ssh-keygen|key/),
    },
  },
  {
    driver: "qemu",
    program: "ip",
    when: "-batch",
    on: {
      missing: missing("ip", "iproute2"),
      fails: failed(/\bip\b/, said),
      hangs: again("ip", 10),
      lies: failed(/\bip\b/),
      "prints rubbish": failed(/\bip\b/),
    },
  },
  {
    driver: "qemu",
    program: "nft",
    when: "-f",
    on: {
      missing: missing("nft", "nftables"),
      fails: failed(/\bnft\b/, said),
      hangs: again("nft", 20),
      lies: failed(/network/, /nft list tables/),
      "prints rubbish": failed(/network/, /nft list tables/),
    },
  },
  {
    driver: "qemu",
    program: "qemu-system-x86_64",
    when: "guest=",
    on: {
      missing: missing("qemu-system-x86_64", "qemu-system-x86"),
      fails: triedAgain(/machine ended/i, said),
      hangs: { end: "active", words: [/did not answer on its control socket within 10 s/] },
      lies: triedAgain(/said nothing/, /dmesg/),
      "prints rubbish": triedAgain(/machine ended/i),
    },
  },
  {
    driver: "container",
    program: "systemd-nspawn",
    when: "HOSTLER_SLICE",
    on: {
      fails: triedAgain(said),
      hangs: { end: "active", words: [/no first process within/] },
      lies: triedAgain(/said nothing/, /dmesg/),
      "prints rubbish": triedAgain(/machine ended|container/i),
    },
  },
  {
    driver: "container",
    program: "cp",
    on: {
      missing: missing("cp", "coreutils"),
      fails: failed(/\bcp\b/, said),
      // The next program looks at what it should have made.
      lies: failed(/resize2fs/, /Bad magic number/),
      "prints rubbish": failed(/resize2fs/, /Bad magic number/),
    },
  },
  {
    driver: "container",
    program: "resize2fs",
    on: { fails: failed(/resize2fs/, said), missing: missing("resize2fs", "e2fsprogs") },
  },
  { driver: "container", program: "mount", on: { fails: failed(/mount/, said), lies: failed(/mounted/) } },
  {
    driver: "container",
    program: "mke2fs",
    isFirstUse: true,
    on: { fails: failed(/mke2fs/, said), missing: missing("mke2fs", "e2fsprogs") },
  },
  {
    driver: "container",
    program: "tar",
    isFirstUse: true,
    on: { fails: failed(/tar/, said), lies: failed(/tar|image/i) },
  },
];

export const PROGRAM_CASES: readonly HostCase[] = ROWS.flatMap(({ driver, program, when, on, isFirstUse = false }) =>
  Object.entries(on).map(([how, expected]): HostCase => {
    const fault = {
      how: how as ProgramFault["how"],
      words: SAID,
      isOnce: how === "hangs",
      ...(when === undefined ? {} : { when }),
    };
    return {
      name: `${program} ${how === "missing" ? "is missing" : how}`,
      driver,
      plant: async ({ programs, forgetImages }) => {
        if (isFirstUse) await forgetImages();
        await programs.plant(program, fault);
      },
      expected,
      isHang: how === "hangs",
    };
  }),
);
