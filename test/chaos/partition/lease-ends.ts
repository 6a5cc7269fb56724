import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { isAborted, systemClock } from "@hostler/shared/clock.ts";

const LOOK_MS = 50;

/** When each grant's lease ended or will, as the database said last, on the monotonic clock that the hosts' effects are told by. */
export interface LeaseEnds {
  of(fence: string): number | null;
  close(): Promise<void>;
}

/** Looks at the leases all the time: a row shows only the newest. The database is on this machine, so its clock is ours. */
export function watchLeaseEnds(sql: Sql): LeaseEnds {
  const ends = new Map<string, number>();
  const stopping = new AbortController();
  const look = async (): Promise<void> => {
    const rows = await sql<{ fence: string; until: Date }[]>`
      select fence::text, lease_until as until from tasks where state = 'leased'
    `;
    const monotonicMs = Number(process.hrtime.bigint() / 1000n) / 1000;
    const offsetMs = monotonicMs - systemClock.now().getTime();
    for (const { fence, until } of rows) ends.set(fence, until.getTime() + offsetMs);
  };
  const running = (async () => {
    for (;;) {
      await look();
      await systemClock.sleep(LOOK_MS, stopping.signal);
    }
  })().catch((error: unknown) => {
    if (!isAborted(error, stopping.signal)) throw error;
  });
  return {
    of: (fence) => ends.get(fence) ?? null,
    close: async () => {
      stopping.abort();
      await running;
    },
  };
}
