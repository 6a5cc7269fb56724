import { isAbsolute, resolve as resolvePath } from "node:path";
import { parsePemChain, serverNameOf } from "@hostler/pki";
import { readLockHolder } from "../host/state-lock.ts";
import { readSession } from "../identity/identity-files.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import { parseServer } from "../identity/enrol-listener.ts";
import type { DoctorDeps } from "./doctor-deps.ts";
import type { Trust } from "./judge-server.ts";
import { makeReach, type Reach } from "./reach.ts";
import { readIdentityFile, type IdentityFile } from "./read-identity-file.ts";

export interface DoctorRequest {
  readonly stateDir: string;
  /** Given: diagnose this enrolment before it happens. */
  readonly enrolment: Enrolment | null;
}

interface Enrolment {
  readonly server: string;
  readonly token: string;
}

/** What is looked at, read once: every check sees the same host. */
export interface Scene {
  readonly deps: DoctorDeps;
  readonly stateDir: string;
  readonly identity: IdentityFile;
  readonly enrolment: Enrolment | null;
  /** Of the last start of an agent; null when there was none, or its file is damaged. */
  readonly session: string | null;
  /** The agent that holds the state folder now. */
  readonly agent: { readonly pid: number } | null;
  /** The node listener first; none when no control plane is known. */
  readonly listeners: readonly Reach[];
}

/** Throws `malformed_request` when `--server` is not host:port. Whoever opens a scene closes its listeners. */
export async function openScene(deps: DoctorDeps, request: DoctorRequest): Promise<Scene> {
  const stateDir = isAbsolute(request.stateDir) ? request.stateDir : resolvePath(request.stateDir);
  const identity = await readIdentityFile(stateDir);
  return {
    deps,
    stateDir,
    identity,
    enrolment: request.enrolment,
    session: await readSession(makeDiskFiles(stateDir)).catch(() => null),
    agent: await readLockHolder(stateDir).catch(() => null),
    listeners: listenersOf(deps, request, identity),
  };
}

function listenersOf(deps: DoctorDeps, request: DoctorRequest, file: IdentityFile): readonly Reach[] {
  const endsAtMs = deps.clock.monotonicMs() + deps.limits.totalMs;
  if (request.enrolment !== null) {
    const { server, token } = request.enrolment;
    return [makeReach(deps, { role: "enrol", ...parseServer(server), trust: { kind: "token", token }, endsAtMs })];
  }
  if (file.state !== "present") return [];
  const { identity, server } = file.stored;
  const trust: Trust = {
    kind: "bundle",
    roots: rootsOf(identity.trustBundle),
    serverName: serverNameOf(identity.trustDomain),
  };
  return [
    makeReach(deps, { role: "node", ...parseServer(identity.nodeListener), trust, endsAtMs }),
    makeReach(deps, { role: "enrol", ...parseServer(server), trust, endsAtMs }),
  ];
}

/** None when the bundle is damaged: its own check says that, and no server can be ours then. */
function rootsOf(bundle: string): Extract<Trust, { kind: "bundle" }>["roots"] {
  try {
    return parsePemChain(bundle);
  } catch {
    return [];
  }
}
