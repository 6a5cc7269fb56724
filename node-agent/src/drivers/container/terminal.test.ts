import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../../test/support/wait-for.ts";
import { nodePtyHost } from "../../terminals/node-pty-host.ts";
import { makeContext } from "../testing.ts";
import { enterArgv } from "./terminal-command.ts";
import { build, canRunContainers, makeContainerHost, type ContainerHost } from "./test-host.ts";

const isUsable = await canRunContainers();
let host: ContainerHost;
beforeAll(async () => {
  if (isUsable) host = await makeContainerHost();
});
afterAll(async () => {
  if (isUsable) await host.remove();
});

test.skipIf(!isUsable)(
  "a terminal has job control, follows the window and gives the shell's exit code",
  async () => {
    const driver = host.makeDriver();
    const spec = host.makeSpec();
    await build(driver, spec);
    await driver.machine.waitReady(spec, makeContext());
    const session = nodePtyHost.open(await driver.machine.terminalCommand(spec), { cols: 80, rows: 24 });
    onTestFinished(() => session.kill());
    let seen = "";
    session.onOutput((bytes) => {
      seen += Buffer.from(bytes).toString("latin1");
    });
    const type = (text: string): void => session.write(Buffer.from(text));
    const shows = async (text: string): Promise<void> => {
      await waitFor(`"${text}" in ${JSON.stringify(seen)}`, async () => seen.includes(text));
    };
    type("echo $((6 * 7)) answer\n");
    await shows("42 answer");
    session.resize(131, 41);
    type("stty size\n");
    await shows("41 131");
    type("sleep 1000\n");
    // The line is echoed when the shell has read it; the interrupt may come before the program and then ends the line as well.
    await shows("sleep 1000");
    type("\u0003");
    type("echo $((7 * 7)) after\n");
    await shows("49 after");
    expect(seen).not.toMatch(/job control turned off|no job control/);
    type("exit 9\n");
    expect(await session.exited).toMatchObject({ exitCode: 9 });
  },
  60_000,
);

test("a terminal enters every name space of the container, without new privileges and with nothing of the host's environment", () => {
  const argv = enterArgv(4242);
  expect(argv.slice(0, 2)).toEqual(["env", "-i"]);
  expect(argv).toContain("--no-new-privs");
  for (const space of ["--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--root"])
    expect(argv).toContain(space);
  expect(argv).toContain("--target=4242");
  expect(argv.join(" ")).not.toMatch(/sh -c/);
});
