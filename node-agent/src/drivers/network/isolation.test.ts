import { access } from "node:fs/promises";
import { expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { isRoot } from "../testing.ts";
import { allowed, ATTACKS, type Attack, type Situation } from "./test-attacks.ts";
import { inside, layCables, OUTSIDE, type Cables, type Guest } from "./test-cables.ts";

const hasTap =
  isRoot &&
  (await access("/dev/net/tun").then(
    () => true,
    () => false,
  ));
if (!hasTap) process.stderr.write("skipped: slices are not shown to be apart here (not root, or no /dev/net/tun)\n");

interface Pair {
  readonly cables: Cables;
  readonly attacker: Guest;
  readonly victim: Guest;
}

let sent = 0;
/** Sends the attack with a marker of its own. */
async function send({ cables, attacker, victim }: Pair, attack: Attack): Promise<Situation> {
  sent += 1;
  const marker = `<marker-${sent}>`;
  const situation = { cables, attacker, victim, gatewayMac: await cables.hostMacOf(attacker), marker };
  await attacker.send(...attack.frames(situation));
  return situation;
}

/** The guest gets an answer from outside: all that went through its cable before has come through. */
async function awaitAnswer(guest: Guest): Promise<void> {
  await waitFor(
    "an answer from outside",
    async () =>
      await inside(guest.network, ["busybox", "ping", "-q", "-c", "1", "-W", "1", OUTSIDE.public]).then(
        () => true,
        () => false,
      ),
  );
}

/** As a host without any of our thoughts would plug them in. */
async function joinByBridge({ host, machine, container }: Cables): Promise<void> {
  await host.ip("link", "add", "br0", "type", "bridge");
  await host.ip("link", "set", "br0", "up");
  for (const { tap } of [machine, container]) await host.ip("link", "set", "dev", tap, "master", "br0");
}

test.skipIf(!hasTap).for(["machine", "container"] as const)(
  "the %s reaches the outside, and neither its neighbour nor the host nor metadata, whatever it sends",
  { timeout: 120_000 },
  async (kind) => {
    const cables = await layCables();
    onTestFinished(cables.remove);
    const pair = { cables, attacker: cables[kind], victim: cables[kind === "machine" ? "container" : "machine"] };
    const attempts: { readonly attack: Attack; readonly situation: Situation }[] = [];
    for (const attack of ATTACKS) attempts.push({ attack, situation: await send(pair, attack) });
    const proper = await send(pair, allowed);
    await waitFor("what is allowed", async () => await allowed.hasSucceeded(proper));
    for (const guest of [pair.attacker, pair.victim]) await awaitAnswer(guest);
    const succeeded = await Promise.all(
      attempts.map(async ({ attack, situation }) => ((await attack.hasSucceeded(situation)) ? [attack.name] : [])),
    );
    expect(succeeded.flat()).toEqual([]);

    // Each of them does what it is after where the rules are not: this test can fail.
    await cables.nft("flush", "ruleset");
    for (const control of ["without rules", "shared bridge"] as const) {
      if (control === "shared bridge") await joinByBridge(cables);
      for (const attack of ATTACKS.filter((one) => one.control === control)) {
        const situation = await send(pair, attack);
        await waitFor(`${attack.name}, ${control}`, async () => await attack.hasSucceeded(situation));
      }
    }
  },
);
