import { Socket } from "node:net";
import { systemClock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import { expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { Sql } from "../db/sql.ts";
import { EVERYTHING, type WakeBus } from "../db/wake-bus.ts";
import type { CertificateAuthority } from "../pki/certificate-authority.ts";
import { startLiveSockets } from "./live-sockets.ts";

test("wake-ups of everything that come while all are looked at share the next look", async () => {
  let looks = 0;
  const answers: (() => void)[] = [];
  const sql = (async () => {
    looks += 1;
    await new Promise<void>((resolve) => void answers.push(resolve));
    return [];
  }) as unknown as Sql;
  let wakeAll = (): void => undefined;
  const wake = { listen: (hear: (topic: string) => void) => (wakeAll = () => hear(EVERYTHING)) } as unknown as WakeBus;
  const sockets = startLiveSockets({
    sql,
    wake,
    clock: systemClock,
    log: pino({ level: "silent" }),
    authority: { isTrusted: () => true } as unknown as CertificateAuthority,
  });
  const socket = new Socket();
  // By its last character its part has its own turn in the fifth round, after five seconds.
  sockets.add(socket, { nodeId: "node_2", expiresAt: new Date(Date.now() + 60_000) });
  for (let round = 0; round < 50; round += 1) wakeAll();
  expect(looks).toBe(1);
  answers.shift()?.();
  await waitFor("the one look for all of them", async () => await Promise.resolve(looks === 2));
  answers.shift()?.();
  await new Promise<void>((resolve) => setImmediate(resolve));
  expect(looks).toBe(2);
  socket.destroy();
  await sockets.close();
});
