import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { locateProgram } from "./locate-program.ts";

test("the first that may be run is the one, whatever lies before it and behind it", async () => {
  const root = await mkdtemp(join(tmpdir(), "hostler-"));
  onTestFinished(async () => await rm(root, { recursive: true, force: true }));
  const folders = ["empty", "text", "first", "second"].map((name) => join(root, name));
  for (const folder of folders) await mkdir(folder);
  const [, text = "", first = "", second = ""] = folders;
  for (const folder of [text, first, second]) await writeFile(join(folder, "tool"), "#!/bin/sh\n", { mode: 0o755 });
  await chmod(join(text, "tool"), 0o644);
  expect(locateProgram("tool", [...folders, join(root, "nowhere")])).toBe(join(first, "tool"));
  expect(locateProgram("other", folders)).toBe("other");
  expect(locateProgram("/usr/bin/tool", folders)).toBe("/usr/bin/tool");
});
