import { expect, test } from "vitest";
import { nodePtyHost } from "./node-pty-host.ts";

test("what comes after the program's end changes nothing", async () => {
  const pty = nodePtyHost.open({ argv: ["/bin/sh", "-c", "exit 5"], env: {} }, { cols: 80, rows: 24 });
  expect(await pty.exited).toMatchObject({ exitCode: 5 });
  pty.resize(100, 30);
  pty.write(Buffer.from("too late"));
  pty.pause();
  pty.resume();
  pty.kill();
});
