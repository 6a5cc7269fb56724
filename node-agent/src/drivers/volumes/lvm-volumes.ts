import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { parseAnswer, requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { isSameSlice } from "../../ports/slice-driver.ts";
import { aliasOf, ownerOf } from "../slices/owner-mark.ts";
import type { ThinPool } from "./thin-pool.ts";
import type { Volume, Volumes } from "./volumes.ts";

const PREFIX = "hostler_";
/** What volumes carry, before the slice whose they are. */
const OWNER = "hostler-disk";
const TIMEOUT_MS = 60_000;
/** A guest that writes to a full pool stops. */
const FULL_PERCENT = 90;

const volumeSchema = z.looseObject({ lv_name: z.string(), lv_size: z.coerce.number(), lv_tags: z.string() });
const poolSchema = z.looseObject({
  lv_name: z.string(),
  lv_attr: z.string(),
  data_percent: z.coerce.number(),
  metadata_percent: z.coerce.number(),
});
const reportOf = <Row extends z.ZodType>(row: Row) =>
  z.looseObject({ report: z.array(z.looseObject({ lv: z.array(row) })) });

/** Thin volumes: the pool writes zeros before it gives a block to another volume, unless its operator switched that off. */
export function makeLvmVolumes(deps: { readonly commands: HostCommands; readonly thinPool: ThinPool }): Volumes {
  const { group, pool } = deps.thinPool;
  const run = async (argv: readonly [string, ...string[]], signal: AbortSignal): Promise<string> =>
    requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: TIMEOUT_MS, signal })).stdout;
  const ask = async <Row extends z.ZodType>(row: Row, options: string, signal: AbortSignal) => {
    const argv = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", options, group] as const;
    return parseAnswer(argv, await run(argv, signal), reportOf(row)).report.flatMap(({ lv }) => lv);
  };
  const list = async (signal: AbortSignal): Promise<Volume[]> =>
    (await ask(volumeSchema, "lv_name,lv_size,lv_tags", signal))
      .filter((row) => row.lv_name.startsWith(PREFIX))
      .map(({ lv_name: hostName, lv_size: bytes, lv_tags: tags }) => ({
        name: hostName.slice(PREFIX.length),
        hostName: `${group}/${hostName}`,
        bytes,
        owner:
          tags
            .split(",")
            .map(ownerOf)
            .find((found) => found?.word === OWNER)?.slice ?? null,
      }));
  const find = async (name: string, signal: AbortSignal): Promise<Volume | undefined> =>
    (await list(signal)).find((volume) => volume.name === name);
  const activate = async ({ hostName }: Volume, signal: AbortSignal): Promise<void> =>
    void (await run(["lvchange", "--yes", "--quiet", "--activate", "y", "--ignoreactivationskip", hostName], signal));
  return {
    devicePath: (name) => `/dev/${group}/${PREFIX}${name}`,
    list,
    open: async (name, signal) => {
      const found = await find(name, signal);
      if (found !== undefined) await activate(found, signal);
      return found !== undefined;
    },
    create: async (name, { bytes, owner }, signal) => {
      const found = await find(name, signal);
      if (found === undefined) {
        const size = ["--virtualsize", `${bytes}b`, "--thinpool", pool];
        const marks = ["--name", `${PREFIX}${name}`, "--addtag", aliasOf(OWNER, owner)];
        await run(["lvcreate", "--yes", "--quiet", "--wipesignatures", "n", ...size, ...marks, group], signal);
        return;
      }
      if (found.owner === null || !isSameSlice(found.owner, owner) || found.bytes < bytes)
        throw new AppError("journal_conflict", {
          detail: `The volume ${found.hostName} is there with ${found.bytes} bytes and belongs to ${found.owner?.allocationId ?? "nobody"}. See: lvs --options +lv_tags ${found.hostName}`,
        });
      await activate(found, signal);
    },
    remove: async (name, signal) => {
      if ((await find(name, signal)) === undefined) return;
      await run(["lvremove", "--yes", "--quiet", `${group}/${PREFIX}${name}`], signal);
    },
    requireRoom: async (signal) => {
      const options = "lv_name,lv_attr,data_percent,metadata_percent";
      const found = (await ask(poolSchema, options, signal)).find((row) => row.lv_name === pool);
      if (found?.lv_attr.startsWith("t") !== true)
        throw new AppError("driver_unavailable", {
          detail: `${group}/${pool} is no thin pool. Make one: lvcreate --type thin-pool --size 500G --name ${pool} ${group}`,
        });
      const { data_percent: data, metadata_percent: metadata } = found;
      if (data <= FULL_PERCENT && metadata <= FULL_PERCENT) return;
      throw new AppError("disk_full", {
        detail: `The pool ${group}/${pool} has used ${data} % of its data and ${metadata} % of its metadata; above ${FULL_PERCENT} no disk is made. Extend it: lvextend --size +100G ${group}/${pool}`,
      });
    },
  };
}
