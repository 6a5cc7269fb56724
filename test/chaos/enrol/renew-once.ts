import { makeControlPlaneClient } from "@hostler/node-agent/control/control-plane-client.ts";
import { readIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { makeIdentityKeeper } from "@hostler/node-agent/identity/keep-identity.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { makeLog } from "@hostler/node-agent/log.ts";
import { systemClock } from "@hostler/shared/clock.ts";

/** The agent's start and one renewal, as a process that can be killed: starts a session, renews, uses the new certificate. */
const [, , stateDir = ""] = process.argv;
const files = makeDiskFiles(stateDir);
const stored = await readIdentity(files);
if (stored === null) throw new Error("not enrolled");
const client = makeControlPlaneClient(stored);
const common = { files, clock: systemClock, client, random: Math.random, log: makeLog("silent") };
const highWaterMark = async () => await Promise.resolve({ seq: 0, fence: "0" });
const keeper = makeIdentityKeeper({ ...common, agentInstance: crypto.randomUUID(), highWaterMark }, stored);
const { signal } = new AbortController();
process.stdout.write("started\n");
await keeper.startSession(signal);
await keeper.renew(signal);
// The first use: from here on the certificate before is worth nothing.
await client.sendTelemetry([sample()], signal);
await client.close();

function sample(): Parameters<typeof client.sendTelemetry>[0][number] {
  const host = { cpuPercent: 0, memoryUsedMib: 1, memoryTotalMib: 1, diskFreeGib: 1, load1: 0 };
  return { at: new Date().toISOString(), simulated: true, host, gpus: [] };
}
