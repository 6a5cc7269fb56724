import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import {
  clientFor,
  prepareTenancy,
  startControlPlaneProgram,
  type LocalControlPlane,
} from "../../deploy/demo/local-cloud.ts";

/** A real control plane as a process, in a folder of its own, with a project, and a key of an operator who is a member of it. */
export interface TenantedPlane {
  readonly folder: string;
  readonly stateDir: string;
  readonly projectId: string;
  readonly apiKey: string;
  /** Of the process that runs now, and a client of it. */
  readonly plane: LocalControlPlane;
  readonly operator: ApiClient;
  /** After the process ended; on other ports, unless `env` names them. */
  startAgain(env?: Readonly<Record<string, string>>): Promise<void>;
  close(): Promise<void>;
}

export async function startTenantedPlane(env: Readonly<Record<string, string>> = {}): Promise<TenantedPlane> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-plane-"));
  await chmod(folder, 0o755);
  const stateDir = join(folder, "plane");
  const start = async (more: Readonly<Record<string, string>>): Promise<LocalControlPlane> =>
    await startControlPlaneProgram({ stateDir, logPath: join(folder, "plane.log"), env: { ...env, ...more } });
  let plane = await start({});
  const { projectId, apiKey } = await prepareTenancy(
    clientFor(plane.ready.publicUrl, plane.ready.firstOperatorKey ?? ""),
  );
  let operator = clientFor(plane.ready.publicUrl, apiKey);
  return {
    folder,
    stateDir,
    projectId,
    apiKey,
    get plane() {
      return plane;
    },
    get operator() {
      return operator;
    },
    startAgain: async (more = {}) => {
      plane = await start(more);
      operator = clientFor(plane.ready.publicUrl, apiKey);
    },
    close: async () => {
      await plane.program.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
