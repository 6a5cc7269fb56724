import type { Whoami } from "@hostler/shared/api/common.ts";
import type { Api } from "./api.ts";

/** What every page has once somebody is signed in. */
export interface Signed {
  readonly api: Api;
  readonly whoami: Whoami;
}
