import { openHostJournal } from "./host-journal.ts";
import { runLoadNode, type NodePlan, type NodeWorld, type TaskJwk } from "./load-node.ts";
import { makeLoadTenant, type TenantPlan } from "./load-tenant.ts";
import { keepPace } from "./pace.ts";
import { openWorkerDesk, type WorkerDesk } from "./worker-news.ts";

/** The process of the hosts and of the tenants, who hear from them what became of their slices. */
export interface LoadStart {
  readonly nodes: readonly NodePlan[];
  readonly rootPem: string;
  readonly taskKeys: Readonly<Record<string, TaskJwk>>;
  readonly journalPath: string;
  readonly tenant: TenantPlan;
}

openWorkerDesk<LoadStart>(async (start: LoadStart, desk: WorkerDesk) => {
  const { counts, noteTrouble } = desk;
  const tenant = makeLoadTenant(start.tenant);
  const noteActive = (allocationId: string): void =>
    void tenant.noteActive(allocationId, desk.pace.keptMs).catch((error: unknown) => noteTrouble(String(error)));
  const world: NodeWorld = {
    rootPem: start.rootPem,
    taskKeys: start.taskKeys,
    journal: await openHostJournal(start.journalPath),
    onGranted: desk.noteDelay,
    onAccepted: (task) => {
      counts.done += 1;
      if (task.kind === "slice.vm_release") counts.ended += 1;
      // The tenant is told by the host itself, so that looking at operations is not part of what is measured.
      else noteActive(task.allocationId);
    },
    onTrouble: noteTrouble,
  };
  for (const node of start.nodes) {
    await runLoadNode(node, world);
    counts.ready += 1;
  }
  keepPace({
    pace: () => desk.pace,
    alive: () => counts.created - counts.ended,
    create: async (gangSize) => {
      const isPlaced = await tenant.createGang(gangSize);
      if (isPlaced) counts.created += gangSize;
      return isPlaced;
    },
    onTrouble: noteTrouble,
  });
});
