import { spawn } from "node:child_process";
import { createServer, type Server } from "node:net";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { openQmp, withQmp } from "./qmp.ts";
import { makePlaces } from "../testing.ts";

/** A clock on which every wait is over at once. */
const hasty: Clock = { ...systemClock, sleep: async () => await new Promise((resolve) => setImmediate(resolve)) };

async function socketPath(): Promise<string> {
  const places = await makePlaces();
  onTestFinished(places.remove);
  await mkdir(places.runDir, { recursive: true });
  return join(places.runDir, "qmp.sock");
}

async function fakeQemu(onConnection: (write: (text: string) => void, end: () => void) => void): Promise<string> {
  const path = await socketPath();
  const server: Server = createServer((socket) => {
    onConnection(
      (text) => void socket.write(text),
      () => void socket.destroy(),
    );
    socket.on("error", () => undefined);
  });
  server.listen(path);
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return path;
}

test("a real QEMU tells its state, refuses what it does not know, and is left running", async () => {
  const path = await socketPath();
  const argv = ["-nodefaults", "-display", "none", "-machine", "none", "-S", "-name", "guest=x.1.2"];
  const child = spawn("qemu-system-x86_64", [...argv, "-qmp", `unix:${path},server=on,wait=off`], { stdio: "ignore" });
  onTestFinished(() => void child.kill("SIGKILL"));
  await waitFor(
    "QMP answers",
    async () =>
      await openQmp(path, systemClock).then(
        (qmp) => qmp.close() ?? true,
        () => false,
      ),
  );
  await withQmp(path, systemClock, async (qmp) => {
    expect(await qmp.run("query-status")).toMatchObject({ status: "prelaunch" });
    expect(await qmp.run("query-name")).toEqual({ name: "x.1.2" });
    await expect(qmp.run("no-such-command")).rejects.toMatchObject({
      code: "command_failed",
      detail: expect.stringContaining("no-such-command"),
    });
    expect(await qmp.run("query-status")).toMatchObject({ running: false });
  });
  // It serves one caller at a time; the others wait their turn.
  const states = Array.from(
    { length: 12 },
    async () => await withQmp(path, systemClock, async (qmp) => await qmp.run("query-status")),
  );
  expect(await Promise.all(states)).toHaveLength(12);
  expect(child.exitCode).toBe(null);
});

test("a socket that nobody listens on is a machine that is gone", async () => {
  await expect(openQmp(await socketPath(), systemClock)).rejects.toMatchObject({ code: "machine_exited" });
});

test("a QEMU that hangs is given up on", async () => {
  const path = await fakeQemu(() => undefined);
  await expect(openQmp(path, hasty)).rejects.toMatchObject({ code: "command_timeout" });
});

test("a QEMU that ends in the middle of a command is a machine that is gone", async () => {
  const path = await fakeQemu((write, end) => {
    write('{"QMP": {"version": {}}}\r\n');
    setImmediate(end);
  });
  await expect(openQmp(path, systemClock)).rejects.toMatchObject({ code: "machine_exited" });
});

test("answers come whole although they arrive in pieces and between events", async () => {
  const path = await fakeQemu((write) => {
    write('{"QMP": {}}\r\n{"event": "RES');
    setImmediate(() => write('UME"}\r\n{"ret'));
    setTimeout(() => write('urn": {"ä": 1}}\r\n'), 5);
  });
  const qmp = await openQmp(path, systemClock);
  qmp.close();
});

test("what is no JSON is an error, not a hang", async () => {
  const path = await fakeQemu((write) => write("hello\r\n"));
  await expect(openQmp(path, systemClock)).rejects.toMatchObject({ code: "command_failed" });
});
