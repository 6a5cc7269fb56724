import { AppError } from "@hostler/shared/errors.ts";
import { DONE, NEEDED, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** The base image, in a cache that slices share: nothing to undo, old images go by age. */
export const image: Phase<ProvisionContext> = {
  name: "image",
  timeoutMs: 30 * 60_000,
  retry: { ...RETRY_FEW, attempts: 5 },
  probe: async ({ driver, spec, facts, signal }) =>
    facts["image"] !== undefined && (await driver.image.isCached(spec, signal)) ? DONE : NEEDED,
  apply: async (context) => await context.driver.image.create(context.spec, context),
  verify: async ({ driver, spec, signal }) => {
    if (!(await driver.image.isCached(spec, signal)))
      throw new AppError("command_failed", { detail: `Image ${spec.image.name} was fetched but is not in the cache.` });
  },
  undo: nothing,
};
