import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { mayDo, requireInProject, type Principal } from "../identity/permissions.ts";

/** Throws `not_found` unless it is of a project that the caller may look into, or of the system and the caller an operator. */
export function requireReadable(principal: Principal, { projectId }: Pick<Operation, "projectId">): void {
  if (projectId !== null) requireInProject(principal, "compute.allocation.read", projectId);
  else if (!mayDo(principal, "platform.operation.read", null)) throw new AppError("not_found");
}
