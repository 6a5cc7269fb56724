import { expect, test } from "vitest";
import { nodePath } from "./node-path.ts";

const ids = ["node_01a1ff5c-f56b-7a7f-8758-96730cb28dc0", "node_01a1ff5c-f56b-7a7f-8758-96730cb28dc1"];
const hosts = (...names: readonly string[]) => ({
  list: async () => await Promise.resolve(names.map((name, index) => ({ id: ids[index], name })) as never),
});

test("a host is found by its id without asking, and by its name", async () => {
  const nobody = { list: async () => await Promise.reject(new Error("asked")) };
  expect(await nodePath(nobody, ids[1] ?? "")).toBe(`/api/ops/v1/nodes/${ids[1]}`);
  expect(await nodePath(hosts("gpu-1", "gpu-2"), "gpu-2")).toBe(`/api/ops/v1/nodes/${ids[1]}`);
});

test("a name that no host has, or several have, says what to do", async () => {
  await expect(nodePath(hosts("gpu-1"), "gpu-3")).rejects.toThrow("See 'hostler nodes list'");
  await expect(nodePath(hosts("gpu-1", "gpu-1"), "gpu-1")).rejects.toThrow(`Give the id of one: ${ids.join(", ")}`);
});
