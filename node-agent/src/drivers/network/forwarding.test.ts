import { access } from "node:fs/promises";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import type { SlicePort } from "@hostler/shared/tasks.ts";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { isRoot } from "../testing.ts";
import type { PortMapping } from "./host-ports.ts";
import { inside, layCables, type Cables, type Guest } from "./test-cables.ts";
import { HOST_ADDRESSES, OUTSIDE } from "./test-outside.ts";

const hasTap =
  isRoot &&
  (await access("/dev/net/tun").then(
    () => true,
    () => false,
  ));
if (!hasTap) process.stderr.write("skipped: what slices may send is not tried here (not root, or no /dev/net/tun)\n");

test.skipIf(!hasTap)("a guest hears that its packets are too large for the way", { timeout: 60_000 }, async () => {
  const cables = await layCables();
  onTestFinished(cables.remove);
  await cables.host.ip("link", "set", "out0", "mtu", "1300");
  for (const guest of [cables.machine, cables.container])
    await waitFor("the guest to know the way's size", async () => {
      await inside(guest.network, ["socat", "-u", "STDIN", `UDP4-SENDTO:${OUTSIDE.public}:9`], Buffer.alloc(1400));
      return (await guest.network.ip("route", "get", OUTSIDE.public)).includes("mtu 1300");
    });
  expect(await cables.machine.network.ip("route", "get", OUTSIDE.public)).toContain("mtu 1300");
});

const portsOf = ({ facts }: Guest): readonly PortMapping[] => facts["ports"] as readonly PortMapping[];

function hostPortOf(guest: Guest, protocol: "tcp" | "udp"): number {
  const found = portsOf(guest).find((one) => one.protocol === protocol);
  if (found === undefined) throw new Error(`no ${protocol} port`);
  return found.hostPort;
}

async function answersFrom(guest: Guest): Promise<void> {
  await waitFor(
    "an answer from outside",
    async () =>
      await inside(guest.network, ["busybox", "ping", "-q", "-c", "1", "-W", "1", OUTSIDE.public]).then(
        () => true,
        () => false,
      ),
  );
}

async function sendFromOutside({ outside }: Cables, place: string, text: string): Promise<void> {
  await inside(outside, ["socat", "-u", "-T", "5", "STDIN", place], Buffer.from(text));
}

test.skipIf(!hasTap)(
  "who is outside reaches the ports that a slice asked for, and no other; its neighbour does not",
  { timeout: 60_000 },
  async () => {
    const ports: SlicePort[] = [
      { protocol: "tcp", port: 8080 },
      { protocol: "udp", port: 5353 },
    ];
    const cables = await layCables({ ports });
    onTestFinished(cables.remove);
    const { machine, container, listen } = cables;
    for (const [guest, neighbour] of [
      [machine, container],
      [container, machine],
    ] as const) {
      expect(guest.facts["ports"]).toMatchObject(ports.map((one) => ({ ...one, hostAddress: HOST_ADDRESSES.ipv4 })));
      const web = await listen(guest.network, "TCP4-LISTEN:8080,fork", "tcp");
      const names = await listen(guest.network, "UDP4-RECV:5353", "udp");
      // A connection from a private network: what goes back on it may, what the slice begins may not.
      const tcp = hostPortOf(guest, "tcp");
      const udp = hostPortOf(guest, "udp");
      const here = HOST_ADDRESSES.ipv4;
      await sendFromOutside(cables, `TCP4:${here}:${tcp},bind=${OUTSIDE.private},connect-timeout=10`, "<over tcp>");
      await waitFor("what came by TCP", async () => await web.heard("<over tcp>"));
      await sendFromOutside(cables, `UDP4-SENDTO:${here}:${udp}`, "<over udp>");
      await waitFor("what came by UDP", async () => await names.heard("<over udp>"));

      const { driver } = guest.spec;
      const intrusions = [`<${driver}'s neighbour>`, `<other than ${driver}'s>`, `<${driver}'s own address>`] as const;
      const send = ["socat", "-u", "STDIN"];
      await inside(neighbour.network, [...send, `UDP4-SENDTO:${here}:${udp}`], Buffer.from(intrusions[0]));
      await sendFromOutside(cables, `UDP4-SENDTO:${here}:${tcp}`, intrusions[1]);
      await sendFromOutside(cables, `UDP4-SENDTO:${guest.address}:5353`, intrusions[2]);
      for (const one of [neighbour, guest]) await answersFrom(one);
      for (const text of intrusions) expect(await guest.ear.heard(text), text).toBe(false);
    }
  },
);

/** What the limit dropped, packets, and what was accepted behind it, bytes: from the slice, or to it. */
function countsIn(rules: string, way: string): { readonly dropped: number; readonly bytes: number } {
  const [forward = "", outward = ""] = rules.slice(rules.indexOf("chain forward")).split("chain outward");
  const dropped = Number(new RegExp(`${way} "\\w+" limit .* packets (\\d+) bytes \\d+ drop`).exec(forward)?.[1]);
  const accepting = way === "iifname" ? outward : forward.replaceAll(/iifname.*/g, "");
  const bytes = [...accepting.matchAll(/bytes (\d+) accept/g)].reduce((sum, [, one]) => sum + Number(one), 0);
  return { dropped, bytes };
}

test.skipIf(!hasTap)(
  "a slice sends and receives no more than its limit, and what is above it is dropped",
  { timeout: 60_000 },
  async () => {
    const [limit, packets, size] = [125_000, 2000, 1000] as const;
    const cables = await layCables({ bandwidthMbitPerSecond: 1, ports: [{ protocol: "udp", port: 9000 }] });
    onTestFinished(cables.remove);
    const bytes = Buffer.alloc(packets * size);
    for (const guest of [cables.machine, cables.container]) {
      const table = guest.tap.replace(/^ht/, "hostler_");
      const place = `UDP4-SENDTO:${HOST_ADDRESSES.ipv4}:${hostPortOf(guest, "udp")}`;
      const ways = {
        iifname: async () =>
          await inside(guest.network, ["socat", "-u", "-b", "1000", "STDIN", `UDP4-SENDTO:${OUTSIDE.public}:9`], bytes),
        oifname: async () => await inside(cables.outside, ["socat", "-u", "-b", "1000", "STDIN", place], bytes),
      };
      for (const [way, send] of Object.entries(ways)) {
        const startedMs = systemClock.monotonicMs();
        await send();
        let counts = { dropped: 0, bytes: 0 };
        // A tap's frames are carried by programs: the last may still be on its way.
        await waitFor("the counters to rest", async () => {
          const before = counts;
          counts = countsIn(await cables.nft("list", "table", "inet", table), way);
          return counts.dropped > 0 && counts.dropped === before.dropped && counts.bytes === before.bytes;
        });
        const elapsedS = (systemClock.monotonicMs() - startedMs) / 1000;
        const passed = counts.bytes;
        process.stdout.write(
          `${guest.spec.driver} ${way}: ${packets} packets sent, ${counts.dropped} dropped above the limit, ${passed} bytes passed within ${elapsedS.toFixed(3)} s\n`,
        );
        // One second's worth at once, and one packet on the edge.
        expect(passed).toBeLessThanOrEqual(limit * (1 + elapsedS) + 2 * size);
        expect(passed).toBeGreaterThan(0);
      }
    }
  },
);

test.skipIf(!hasTap)(
  "what is still answered to a slice that is gone does not reach the next one at its address",
  { timeout: 60_000 },
  async () => {
    const cables = await layCables();
    onTestFinished(cables.remove);
    const ask = ["socat", "-u", "STDIN", `UDP4-SENDTO:${OUTSIDE.public}:9,bind=:4000`];
    const answer = `UDP4-SENDTO:${HOST_ADDRESSES.ipv4}:4000,bind=:9`;
    await inside(cables.container.network, ask, Buffer.from("<question>"));
    await waitFor("the question", async () => await cables.outsideEar.heard("<question>"));
    await sendFromOutside(cables, answer, "<an answer>");
    await waitFor("the answer", async () => await cables.container.ear.heard("<an answer>"));
    const next = await cables.replaceContainer();
    expect(next.address).toBe(cables.container.address);
    await sendFromOutside(cables, answer, "<not for this one>");
    await answersFrom(next);
    expect(await next.ear.heard("<not for this one>")).toBe(false);
    // The same connection, when this slice goes on with it, is its own.
    await inside(next.network, ask, Buffer.from("<its own question>"));
    await sendFromOutside(cables, answer, "<for this one>");
    await waitFor("an answer of its own", async () => await next.ear.heard("<for this one>"));
  },
);
