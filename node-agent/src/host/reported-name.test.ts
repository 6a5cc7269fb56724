import { reportedNameSchema } from "@hostler/shared/node-protocol.ts";
import { expect, test } from "vitest";
import { reportedName } from "./reported-name.ts";

test("every name that a kernel may have can be reported, and a usual one is reported as it is", () => {
  expect(reportedName("gpu-01.rack_2.example.org")).toBe("gpu-01.rack_2.example.org");
  for (const name of ["", "-x", "(none)", "a b", "hôst", "\u001b[2J", "x".repeat(300), "___"])
    expect(reportedNameSchema.safeParse(reportedName(name)).success).toBe(true);
});
