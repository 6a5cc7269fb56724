import { chmod, chown, cp, lchown, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { hostAccessOf, type HostAccess, type SliceSpec } from "@hostler/shared/tasks.ts";
import { exists } from "../../host/exists.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DiskObject } from "../../ports/slice-driver.ts";
import {
  closeSliceFolder,
  openSliceFolder,
  replaceFile,
  syncFolder,
  translateNoSpace,
} from "../slices/slice-folder.ts";
import { tenantOf, type HostPlaces, type Tenant } from "./tenant-account.ts";
import { eraseTenantFiles } from "./tenant-files.ts";
import { processesOf } from "./tenant-processes.ts";

export interface HomeDeps {
  readonly places: HostPlaces;
  readonly commands: HostCommands;
  /** Where files of a tenant may be. */
  readonly fileSystems: () => Promise<readonly string[]>;
}

/** The tenant's script in its home. */
export const SCRIPT = ".hostler/user-data";

/**
 * The tenant's home, on the host's own disk. It is made whole under another name while nobody can log in, because later every name
 * in it may be a link that the tenant has made.
 */
export function makeHome(deps: HomeDeps): DiskObject {
  const erase: DiskObject["erase"] = async (slice, signal) => {
    const tenant = tenantOf(deps.places, slice);
    const { uid, home, homeDraft } = tenant;
    const living = await processesOf(uid);
    if (living.length > 0)
      throw new AppError("command_failed", {
        detail: `The home of ${tenant.user} is not erased while its processes live: ${living.slice(0, 10).join(", ")}.`,
      });
    const places = (await readAccess(tenant)) === "root" ? null : await deps.fileSystems();
    const erasing = { commands: deps.commands, uid, signal };
    const erasure = await eraseTenantFiles(erasing, { folders: [home, homeDraft], places });
    for (const path of [tenant.scriptMark, tenant.homeMark]) await rm(path, { force: true });
    await closeSliceFolder(tenant);
    return erasure;
  };
  return {
    inspect: async (slice) => {
      const { home, homeDraft, homeMark } = tenantOf(deps.places, slice);
      const [isThere, isMarked, isBegun] = await Promise.all([home, homeMark, homeDraft].map(exists));
      if (isThere && isMarked) return "present";
      return isThere || isMarked || isBegun ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const tenant = tenantOf(deps.places, spec);
      await openSliceFolder(tenant, spec, context);
      await replaceFile(tenant.homeMark, hostAccessOf(spec.labels));
      if (!(await exists(tenant.home))) await makeWhole(deps.places, tenant, spec);
      return { path: tenant.home };
    },
    erase,
    remove: async (slice, signal) => void (await erase(slice, signal)),
  };
}

/** What the tenant of a home was here; nobody can have been in a home that was not begun. */
async function readAccess({ homeMark }: Tenant): Promise<HostAccess> {
  return (await readFile(homeMark, "utf8").catch(() => "")) === "root" ? "root" : "user";
}

async function makeWhole(places: HostPlaces, { home, homeDraft, uid }: Tenant, spec: SliceSpec): Promise<void> {
  try {
    await rm(homeDraft, { recursive: true, force: true });
    await mkdir(homeDraft, { mode: 0o700 });
    const skeleton = join(places.etcDir, "skel");
    if (await exists(skeleton)) await cp(skeleton, homeDraft, { recursive: true, verbatimSymlinks: true });
    await mkdir(join(homeDraft, ".ssh"), { mode: 0o700 });
    const keys = spec.sshPublicKeys.map((key) => `${key}\n`).join("");
    await writeFile(join(homeDraft, ".ssh/authorized_keys"), keys, { mode: 0o600 });
    if (spec.userData !== null) {
      await mkdir(join(homeDraft, ".hostler"), { mode: 0o700 });
      await writeFile(join(homeDraft, SCRIPT), spec.userData, { mode: 0o700 });
    }
    await giveTo(homeDraft, uid);
    // Copying the skeleton may have taken its mode.
    await chmod(homeDraft, 0o700);
    await rename(homeDraft, home);
    await syncFolder(places.homesDir);
  } catch (error) {
    await rm(homeDraft, { recursive: true, force: true });
    throw translateNoSpace(error, "the tenant's home");
  }
}

async function giveTo(folder: string, uid: number): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    await lchown(join(entry.parentPath, entry.name), uid, uid);
  await chown(folder, uid, uid);
}
