import { access } from "node:fs/promises";
import { expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { isRoot } from "../testing.ts";
import { allowed, allowedByIpv6, ATTACKS, ATTACKS_BY_IPV6, type Attack, type Situation } from "./test-attacks.ts";
import { inside, layCables, type Cables, type Guest } from "./test-cables.ts";
import { OUTSIDE } from "./test-outside.ts";

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

/** The guest gets answers from outside: all that went through its cable before has come through. */
async function awaitAnswers(guest: Guest): Promise<void> {
  for (const [program, place] of [
    ["ping", OUTSIDE.public],
    ["ping6", OUTSIDE.public6],
  ] as const)
    await waitFor(
      `an answer from ${place}`,
      async () =>
        await inside(guest.network, ["busybox", program, "-q", "-c", "1", "-W", "1", place]).then(
          () => true,
          () => false,
        ),
    );
}

async function callFromOutside({ cables, attacker }: Pair, text: string): Promise<void> {
  await inside(cables.outside, ["socat", "-u", "STDIN", `UDP6-SENDTO:[${attacker.address6}]:9`], Buffer.from(text));
}

/** As a host without any of our thoughts would plug them in. */
async function joinByBridge({ host, machine, container }: Cables): Promise<void> {
  await host.ip("link", "add", "br0", "type", "bridge");
  await host.ip("link", "set", "br0", "up");
  for (const { tap } of [machine, container]) await host.ip("link", "set", "dev", tap, "master", "br0");
}

const KINDS = [
  ["machine", "routed", "2001:db8:5::/112"],
  ["container", "private", "fd12:3456:789a::/112"],
] as const;
/** Those by IPv6 first: without rules, one of the others makes the host send to the attacker what is for the outside. */
const EVERY_ATTACK = [...ATTACKS_BY_IPV6, ...ATTACKS];

test.skipIf(!hasTap).for(KINDS)(
  "the %s, of IPv6 %s, reaches the outside, and neither its neighbour nor the host nor metadata, whatever it sends",
  { timeout: 120_000 },
  async ([kind, , prefix]) => {
    const cables = await layCables({}, prefix);
    onTestFinished(cables.remove);
    const pair = { cables, attacker: cables[kind], victim: cables[kind === "machine" ? "container" : "machine"] };
    const attempts: { readonly attack: Attack; readonly situation: Situation }[] = [];
    for (const attack of EVERY_ATTACK) attempts.push({ attack, situation: await send(pair, attack) });
    for (const attack of [allowed, allowedByIpv6]) {
      const proper = await send(pair, attack);
      await waitFor(attack.name, async () => await attack.hasSucceeded(proper));
    }
    for (const guest of [pair.attacker, pair.victim]) await awaitAnswers(guest);
    // Nobody outside begins a conversation with a slice, also where its address is known.
    await callFromOutside(pair, "<unasked>");
    await awaitAnswers(pair.attacker);
    expect(await pair.attacker.ear.heard("<unasked>")).toBe(false);
    const succeeded = await Promise.all(
      attempts.map(async ({ attack, situation }) => ((await attack.hasSucceeded(situation)) ? [attack.name] : [])),
    );
    expect(succeeded.flat()).toEqual([]);

    // Each of them does what it is after where the rules are not: this test can fail.
    await cables.nft("flush", "ruleset");
    await callFromOutside(pair, "<without rules>");
    await waitFor("a call from outside", async () => await pair.attacker.ear.heard("<without rules>"));
    for (const control of ["without rules", "shared bridge"] as const) {
      if (control === "shared bridge") await joinByBridge(cables);
      for (const attack of EVERY_ATTACK.filter((one) => one.control === control)) {
        const situation = await send(pair, attack);
        await waitFor(`${attack.name}, ${control}`, async () => await attack.hasSucceeded(situation));
      }
    }
  },
);
