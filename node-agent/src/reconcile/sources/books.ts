import { shortName } from "@hostler/shared/ids.ts";
import type { AddressPool } from "../../drivers/network/addresses.ts";
import type { HostLedger } from "../../journal/host-ledger.ts";
import { type HostSource, thing } from "../host-source.ts";

/** What the ledger holds for slices. */
export function ledgerRows(ledger: Pick<HostLedger, "read">): HostSource {
  return {
    name: "ledger",
    kinds: ["ledger row"],
    list: async () =>
      Object.entries(await ledger.read()).map(([owner, { allocationId, generation }]) => {
        const slice = { allocationId, generation };
        const fault =
          shortName(allocationId, generation) === owner
            ? null
            : `It stands under a name that is not ${allocationId}'s.`;
        return thing({ kind: "ledger row", name: owner, owner, slice, fault });
      }),
  };
}

/** The subnets that slices have. */
export function addressRows(addresses: Pick<AddressPool, "list">): HostSource {
  return {
    name: "addresses",
    kinds: ["address"],
    list: async () =>
      (await addresses.list()).map(({ owner, host, prefixLength }) =>
        thing({ kind: "address", name: `${host}/${prefixLength}`, owner }),
      ),
  };
}
