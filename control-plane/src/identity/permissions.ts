import type { RoleName } from "@hostler/shared/api/identity.ts";
import { AppError } from "@hostler/shared/errors.ts";

/**
 * Who may do what. A permission is `area.thing.verb`; a role is a set of them; a binding gives a principal a role on
 * one project or, without one, on the platform. Users, groups and OIDC later add principals and roles, not rules.
 */
export const PERMISSIONS = {
  "identity.organization.manage": "platform",
  "identity.project.manage": "platform",
  "identity.key.manage": "platform",
  "fleet.token.manage": "platform",
  "fleet.node.read": "platform",
  "fleet.node.manage": "platform",
  "fleet.image.manage": "platform",
  "fleet.telemetry.read": "platform",
  "fleet.pki.manage": "platform",
  "audit.log.read": "platform",
  "audit.event.read": "platform",
  "audit.webhook.manage": "platform",
  "platform.operation.read": "platform",
  "platform.operation.manage": "platform",
  "compute.allocation.read": "project",
  "compute.allocation.create": "project",
  "compute.allocation.release": "project",
  "compute.terminal.open": "project",
  "compute.telemetry.read": "project",
  "compute.image.read": "project",
  "compute.event.read": "project",
  "compute.webhook.manage": "project",
} as const satisfies Record<string, "platform" | "project">;
export type Permission = keyof typeof PERMISSIONS;

const permissionsOfScope = (scope: "platform" | "project"): readonly Permission[] =>
  (Object.keys(PERMISSIONS) as Permission[]).filter((permission) => PERMISSIONS[permission] === scope);

/** An operator runs the platform and cannot look into a tenant's slices; a member works in one project. */
export const ROLE_PERMISSIONS: Readonly<Record<RoleName, readonly Permission[]>> = {
  operator: permissionsOfScope("platform"),
  member: permissionsOfScope("project"),
};

export interface Principal {
  readonly id: string;
  readonly name: string;
  readonly bindings: readonly { readonly role: RoleName; readonly projectId: string | null }[];
}

/** Every permission the principal has in some scope; screens use it to show what is possible. */
export function permissionsOf(principal: Principal): Permission[] {
  return [...new Set(principal.bindings.flatMap((binding) => ROLE_PERMISSIONS[binding.role]))];
}

/** Whether the principal has the permission on the project, or on the platform when `projectId` is null. */
export function mayDo(principal: Principal, permission: Permission, projectId: string | null): boolean {
  return principal.bindings.some(
    (binding) => binding.projectId === projectId && ROLE_PERMISSIONS[binding.role].includes(permission),
  );
}

/**
 * Throws `not_found` when the principal cannot do this in that project: other tenants' things do not exist for it.
 * Call it with the project of the thing that was read, never with one that the caller sent beside it.
 */
export function requireInProject(principal: Principal, permission: Permission, projectId: string): void {
  if (!mayDo(principal, permission, projectId)) throw new AppError("not_found");
}
