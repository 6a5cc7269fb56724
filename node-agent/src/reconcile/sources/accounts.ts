import { shortName } from "@hostler/shared/ids.ts";
import { readAccounts } from "../../drivers/host/account-files.ts";
import { parseComment, shortNameOf } from "../../drivers/host/tenant-account.ts";
import { type HostSource, thing } from "../host-source.ts";

/** The accounts of tenants of the host itself. */
export function accounts(etcDir: string): HostSource {
  return {
    name: "accounts",
    kinds: ["account"],
    list: async () =>
      (await readAccounts(etcDir)).flatMap(({ name, comment }) => {
        const owner = shortNameOf(name);
        if (owner === null) return [];
        const slice = parseComment(comment);
        const isMisnamed = slice !== null && shortName(slice.allocationId, slice.generation) !== owner;
        const fault = isMisnamed ? `It has the name of one slice and belongs to ${slice.allocationId}.` : null;
        return [thing({ kind: "account", name, owner, slice: isMisnamed ? null : slice, fault })];
      }),
  };
}
