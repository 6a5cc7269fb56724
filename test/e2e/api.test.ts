import { randomUUID } from "node:crypto";
import { createConfig, lintFromString } from "@redocly/openapi-core";
import { apiKeyCreatedSchema } from "@hostler/shared/api/identity.ts";
import { problemSchema, type Problem } from "@hostler/shared/problem.ts";
import * as z from "zod";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { clientFor } from "../../deploy/demo/local-cloud.ts";
import { startTenantedPlane, type TenantedPlane } from "../support/tenanted-plane.ts";

/** The public API as its own document describes it. */
const bodySchema = z.looseObject({ content: z.record(z.string(), z.unknown()) });
const operationSchema = z.looseObject({
  operationId: z.string().optional(),
  "x-permission": z.string().optional(),
  requestBody: bodySchema.optional(),
});
const documentSchema = z.looseObject({ paths: z.record(z.string(), z.record(z.string(), operationSchema)) });
const SOME_ID = "01900000-0000-7000-8000-000000000001";

let started: TenantedPlane;
let plane: TenantedPlane["plane"];
let apiKey: string;
let projectId: string;
let text: string;
let operations: {
  readonly method: string;
  readonly path: string;
  readonly operation: z.infer<typeof operationSchema>;
}[];

beforeAll(async () => {
  started = await startTenantedPlane();
  ({ plane, apiKey, projectId } = started);
  text = await (await fetch(`${plane.ready.publicUrl}/api/common/v1/openapi.json`)).text();
  const document = documentSchema.parse(JSON.parse(text));
  operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
  );
});
afterAll(async () => {
  await started?.close();
});

async function call(
  method: string,
  path: string,
  options: { body?: unknown; raw?: string; key?: string | null; headers?: Record<string, string> } = {},
): Promise<{ status: number; headers: Headers; body: unknown }> {
  const headers = new Headers({ "idempotency-key": randomUUID(), ...options.headers });
  const key = options.key === undefined ? apiKey : options.key;
  if (key !== null) headers.set("authorization", `Bearer ${key}`);
  const payload = options.raw ?? (options.body === undefined ? undefined : JSON.stringify(options.body));
  if (payload !== undefined && !headers.has("content-type")) headers.set("content-type", "application/json");
  const response = await fetch(`${plane.ready.publicUrl}${path}`, {
    method: method.toUpperCase(),
    headers,
    ...(payload === undefined ? {} : { body: payload }),
  });
  return { status: response.status, headers: response.headers, body: await response.json().catch(() => null) };
}

function problemOf(answer: { readonly body: unknown }): Problem {
  return problemSchema.parse(answer.body);
}

/** A path of the document with ids that have the right form. */
function filled(path: string): string {
  const prefixes: Readonly<Record<string, string>> = {
    projectId: "prj",
    allocationId: "alc",
    nodeId: "node",
    operationId: "op",
    keyId: "key",
    webhookId: "whk",
    natsSinkId: "nts",
  };
  return path.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    name === "projectId" ? projectId : prefixes[name] === undefined ? "x".repeat(10) : `${prefixes[name]}_${SOME_ID}`,
  );
}

describe("the OpenAPI document", () => {
  test("passes the recommended rules of a linter that nobody here wrote", async () => {
    const config = await createConfig({ extends: ["recommended"] });
    const problems = await lintFromString({ source: text, absoluteRef: "openapi.json", config });
    expect(problems.map((problem) => `${problem.severity} ${problem.ruleId} ${problem.message}`)).toEqual([]);
  });

  test("names a permission for every operation", () => {
    expect(operations.length).toBeGreaterThan(20);
    expect(operations.filter(({ operation }) => operation["x-permission"] === undefined)).toEqual([]);
  });
});

test("every operation refuses a caller without a key", async () => {
  for (const { method, path } of operations) {
    const answer = await call(method, filled(path), {
      key: null,
      ...(method === "get" || method === "delete" ? {} : { body: {} }),
    });
    expect(`${method} ${path} ${answer.status}`).toMatch(/ 4(?:01|22)$/);
  }
});

test("every JSON body refuses an unknown field and a body of the wrong type, with pointers", async () => {
  const withBody = operations.filter(
    ({ operation }) => operation.requestBody?.content["application/json"] !== undefined,
  );
  expect(withBody.length).toBeGreaterThan(4);
  for (const { method, path } of withBody) {
    const unknown = await call(method, filled(path), { body: { definitelyUnknown: 1 } });
    expect(`${path} ${unknown.status}`).toBe(`${path} 422`);
    expect(problemOf(unknown).errors.map((error) => error.pointer)).toContain("/definitelyUnknown");
    const wrongType = await call(method, filled(path), { body: [1, 2] });
    expect(`${path} ${wrongType.status}`).toBe(`${path} 422`);
  }
});

test("wrong values are pointed at and say what is expected", async () => {
  const body = {
    name: "Not A Name",
    image: 5,
    vcpus: 0,
    gpus: { count: -1 },
    labels: { "BAD KEY": "x" },
    sshPublicKeys: ["nonsense"],
  };
  const answer = await call("post", `/api/tenant/v1/projects/${projectId}/allocations`, { body });
  expect(answer.status).toBe(422);
  const problem = problemOf(answer);
  expect(problem.errors.map((error) => error.pointer).toSorted()).toEqual([
    "/gpus/count",
    "/image",
    "/labels/BAD KEY",
    "/name",
    "/sshPublicKeys/0",
    "/vcpus",
  ]);
  expect(problem.remedy).not.toBe("");
});

test("bodies that cannot be read are refused with what to do", async () => {
  const path = "/api/ops/v1/organizations";
  expect(problemOf(await call("post", path, { raw: "{" }))).toMatchObject({ status: 400, code: "malformed_request" });
  expect(problemOf(await call("post", path, { raw: "a=b", headers: { "content-type": "text/plain" } }))).toMatchObject({
    status: 415,
  });
  expect(problemOf(await call("post", path, { raw: JSON.stringify({ name: "x".repeat(2_000_000) }) }))).toMatchObject({
    status: 413,
  });
  expect(problemOf(await call("get", "/api/nothing"))).toMatchObject({ status: 404 });
});

test("an Idempotency-Key makes a thing once", async () => {
  const path = "/api/ops/v1/organizations";
  const headers = { "idempotency-key": "the-same" };
  const first = await call("post", path, { body: { name: "once" }, headers });
  const second = await call("post", path, { body: { name: "once" }, headers });
  expect(second.body).toEqual(first.body);
  expect(second.headers.get("idempotency-replayed")).toBe("true");
  expect(problemOf(await call("post", path, { body: { name: "other" }, headers })).code).toBe("idempotency_key_reused");
  const missing = await fetch(`${plane.ready.publicUrl}${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
    body: '{"name":"x"}',
  });
  expect(problemOf({ body: await missing.json() }).code).toBe("idempotency_key_required");
});

test("another tenant's things do not exist, and a member is no operator", async () => {
  const stranger = clientFor(plane.ready.publicUrl, apiKey);
  const organization = await call("post", "/api/ops/v1/organizations", { body: { name: "strangers" } });
  const project = await call("post", "/api/ops/v1/projects", {
    body: { organizationId: (organization.body as { id: string }).id, name: "theirs" },
  });
  const theirProject = (project.body as { id: string }).id;
  const key = await stranger.post(
    "/api/ops/v1/api-keys",
    { name: "stranger", bindings: [{ role: "member", projectId: theirProject }] },
    apiKeyCreatedSchema,
  );
  expect((await call("get", `/api/tenant/v1/projects/${projectId}/allocations`, { key: key.secret })).status).toBe(404);
  expect((await call("get", `/api/tenant/v1/projects/${theirProject}/allocations`, { key: key.secret })).status).toBe(
    200,
  );
  expect((await call("get", "/api/ops/v1/nodes", { key: key.secret })).status).toBe(403);
  await stranger.remove(`/api/ops/v1/api-keys/${key.id}`);
  expect((await call("get", `/api/tenant/v1/projects/${theirProject}/allocations`, { key: key.secret })).status).toBe(
    401,
  );
});

test("metrics need an operator's key and speak Prometheus", async () => {
  expect((await call("get", "/metrics", { key: null })).status).toBe(401);
  const answer = await fetch(`${plane.ready.publicUrl}/metrics`, { headers: { authorization: `Bearer ${apiKey}` } });
  expect(await answer.text()).toMatch(
    /^# HELP hostler_http_requests_total .*\n# TYPE hostler_http_requests_total counter\nhostler_http_requests_total\{method="/m,
  );
});
