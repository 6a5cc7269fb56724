import type { ApiClient } from "@hostler/cli/api-client.ts";
import * as z from "zod";
import { codeOf } from "../forge/attack.ts";

/** Where a tenant, or an operator for tenants, may put a text that is kept with a slice. */
const SLICE_FIELDS: Readonly<Record<string, (text: string) => Readonly<Record<string, unknown>>>> = {
  name: (text) => ({ name: text }),
  image: (text) => ({ image: text }),
  "gpus.kind": (text) => ({ gpus: { count: 1, kind: text } }),
  sshPublicKeys: (text) => ({ sshPublicKeys: [text] }),
  "sshPublicKeys, as a comment": (text) => ({ sshPublicKeys: [`ssh-ed25519 AAAA ${text}`] }),
  userData: (text) => ({ userData: text }),
  "labels, as a key": (text) => ({ labels: Object.fromEntries([[text, "x"]]) }),
  "labels, as a value": (text) => ({ labels: { x: text } }),
  "nodeSelector, as a key": (text) => ({ nodeSelector: Object.fromEntries([[text, "x"]]) }),
  "nodeSelector, as a value": (text) => ({ nodeSelector: { x: text } }),
  spreadBy: (text) => ({ spreadBy: text }),
};

/** Clear refusals; and that there is no host for it, which is said of requests that are right in every field. */
const REFUSED = ["validation_failed", "malformed_request"];
const TRAVELS = ["capacity_unavailable"];

export interface Asked {
  readonly requests: number;
  readonly refused: number;
  /** What was right in every field, and would have gone to a host if there were one. */
  readonly travelled: number;
  readonly fields: number;
  /** Answers that are neither. */
  readonly wrong: readonly string[];
}

/** Every text in every field of a slice, of a group's template, and of the names of what it belongs to. The cloud has no host. */
export async function askApi(
  cloud: { readonly operator: ApiClient; readonly projectId: string; readonly organizationId: string },
  strings: readonly string[],
): Promise<Asked> {
  const { operator, projectId, organizationId } = cloud;
  const project = `/api/tenant/v1/projects/${projectId}`;
  const slice = { name: "good", image: "tiny" };
  const asks = [
    ...Object.entries(SLICE_FIELDS).flatMap(([field, put]) => [
      {
        field,
        path: `${project}/allocations`,
        body: (text: string) => ({ ...slice, ...put(text) }),
        others: othersOf(field),
      },
      {
        field: `template ${field}`,
        path: `${project}/allocation-groups`,
        body: (text: string) => groupOf(put(text)),
        others: othersOf(field),
      },
    ]),
    {
      field: "project",
      path: "/api/ops/v1/projects",
      body: (text: string) => ({ organizationId, name: text }),
      others: MADE,
    },
    {
      field: "organization",
      path: "/api/ops/v1/organizations",
      body: (text: string) => ({ name: text }),
      others: MADE,
    },
  ];
  const counts = { refused: 0, travelled: 0 };
  const wrong: string[] = [];
  for (const { field, path, body, others } of asks) {
    await eightAtATime(strings, async (text) => {
      const code = await operator.post(path, body(text), z.unknown()).then(() => "made", codeOf);
      if (REFUSED.includes(code)) counts.refused += 1;
      else if (TRAVELS.includes(code) || others.includes(code)) counts.travelled += 1;
      else wrong.push(`${field}: ${code} for ${JSON.stringify(text.slice(0, 100))}`);
    });
  }
  return { requests: asks.length * strings.length, fields: asks.length, ...counts, wrong };
}

/** A name that is taken is taken; a harmless one is made. */
const MADE: readonly string[] = ["made", "conflict"];
/** An image of that name does not exist. */
const othersOf = (field: string): readonly string[] => (field === "image" ? ["image_unknown"] : []);

/** A group has one name for all, and slices of their own. */
function groupOf({ name = "good", ...rest }: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return { name, count: 2, template: { image: "tiny", ...rest } };
}

async function eightAtATime<Item>(items: readonly Item[], work: (item: Item) => Promise<void>): Promise<void> {
  const waiting = items.values();
  const worker = async (): Promise<void> => {
    for (const item of waiting) await work(item);
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}
