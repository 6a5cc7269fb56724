import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { ContainerPaths } from "./container-paths.ts";

/** What a container is started with. */
export interface ContainerSettings {
  readonly spec: SliceSpec;
  readonly paths: ContainerPaths;
  readonly fence: string;
  /** First of the slice's own range of host ids. */
  readonly firstId: number;
  /** The host's statically linked busybox, on which our init runs. */
  readonly busybox: string;
  /** Device nodes of the host that the container gets, at the same paths. */
  readonly devices: readonly string[];
  /** Files of the host that it gets to read: the libraries of a GPU's driver. */
  readonly files: readonly { readonly source: string; readonly target: string }[];
}

/** A program that runs a container in the foreground for as long as the container lives. */
export interface ContainerRuntime {
  readonly name: "systemd-nspawn" | "podman";
  /** `runtime` makes the cable itself; `host` wants it put into the container after the start. */
  readonly cable: "runtime" | "host";
  /** The whole command line. Pure. */
  argv(settings: ContainerSettings): readonly [string, ...string[]];
  /** The same confinement around one program and an otherwise empty root: what shows that it works on this host. */
  probeArgv(probe: { readonly root: string; readonly busybox: string }): readonly [string, ...string[]];
}

/** Processes and threads of one container: what keeps a fork bomb from the host where no cgroup does. */
export const PROCESSES_MAX = 32_768;

/**
 * What root of a container does without, in its own user name space too: each of these opens a part of the kernel that no
 * workload needs, and that a fault in would be reached through.
 */
export const DROPPED_CAPABILITIES = [
  "CAP_AUDIT_CONTROL",
  "CAP_AUDIT_WRITE",
  "CAP_MKNOD",
  "CAP_SYS_NICE",
  "CAP_SYS_TTY_CONFIG",
] as const;
