import { access } from "node:fs/promises";
import { expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { isRoot } from "../testing.ts";
import { inside, layCables, OUTSIDE } from "./test-cables.ts";

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
