import { once } from "node:events";
import { access } from "node:fs/promises";
import { makeHostCommands } from "@hostler/node-agent/host/host-commands.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import type { Case } from "./cases.ts";
import { CARDS, demand, raise, refusalOf, uuidOf, type Lab } from "./lab.ts";

const never = new AbortController().signal;
const BEAT_MS = 250;
const STUCK_TIMEOUT_MS = 3000;

/** What goes wrong on real hosts and cannot be undone by waiting. */
export const HARD_CASES: Readonly<Record<string, Case>> = {
  /** A holder keeps the device open; the unbind blocks in the kernel and survives SIGKILL; the agent goes on. */
  unbind_hangs: async (lab) => {
    const uuid = uuidOf(CARDS.driven);
    await lab.agent().bind(uuid, "slice", never);
    const holder = await lab.hold(CARDS.driven);
    const polite = await refusalOf(lab.agent().unbind(uuid, "slice", never));
    demand(polite.includes(`perl (pid ${holder.pid})`), `the holder is not named: ${polite}`);

    const heart = startHeart(lab);
    const path = `/sys/bus/pci/devices/${CARDS.driven}/driver/unbind`;
    const write = { address: CARDS.driven, path, text: CARDS.driven, timeoutMs: STUCK_TIMEOUT_MS };
    const hung = await lab.writer.write(write);
    if (hung.state !== "stuck") return raise(`the unbind is ${JSON.stringify(hung)}`);
    demand((await stateOf(hung.pid)) === "D", `the writer is in state ${await stateOf(hung.pid)}`);
    const again = await lab.writer.write(write);
    demand(again.state === "stuck" && again.pid === hung.pid, `a second write was tried: ${JSON.stringify(again)}`);

    const why = await refusalOf(lab.agent().unbind(uuid, "slice", never));
    demand(why.includes(`pid ${holder.pid}`), `the holder is not named while the write hangs: ${why}`);
    const listed = (await lab.agent().listBound()).find((bound) => bound.gpu.uuid === uuid);
    demand(listed?.fault?.includes("hangs in the kernel") === true, `it is listed with ${listed?.fault}`);
    const isLocked = await readHangs(lab);
    await lab.agent().bind(uuidOf(CARDS.takenOut), "neighbour", never);
    await lab.agent().unbind(uuidOf(CARDS.takenOut), "neighbour", never);
    const beatLateMs = heart.stop();

    holder.kill("SIGKILL");
    await once(holder, "close");
    for (let tries = 0; (await lab.writer.stuckWrites()).length > 0; tries += 1) {
      demand(tries < 100, "the write hangs although the holder is gone");
      await lab.clock.sleep(100, never);
    }
    await lab.agent().unbind(uuid, "slice", never);
    demand((await lab.driverOf(CARDS.driven)) === "e1000e", `it went back to ${await lab.driverOf(CARDS.driven)}`);
    return { beat_late_ms_max: beatLateMs, override_read_hangs: isLocked ? 1 : 0, refusal: why };
  },

  /** The card is taken out of the running machine while a slice has it. */
  surprise_removal: async (lab) => {
    const uuid = uuidOf(CARDS.takenOut);
    await lab.agent().bind(uuid, "slice", never);
    lab.tell({ event: "unplug", id: "taken-out" });
    const folder = `/sys/bus/pci/devices/${CARDS.takenOut}`;
    const isThere = async (): Promise<boolean> =>
      await access(folder).then(
        () => true,
        () => false,
      );
    for (let tries = 0; await isThere(); tries += 1) {
      demand(tries < 300, "the card is still there");
      await lab.clock.sleep(100, never);
    }
    const [listed] = await lab.agent().listBound();
    demand(listed?.fault?.includes("not on the PCI bus") === true, `it is listed with ${listed?.fault}`);
    const why = await refusalOf(lab.agent().unbind(uuid, "slice", never));
    demand(why.includes("not on the PCI bus"), why);
    demand((await lab.agent().ownerOf(uuid)) === "slice", "it lost its owner without a proof");
    return { refusal: why };
  },
};

/** Lines that whoever watches from outside can time, and the longest delay as seen from inside. */
function startHeart(lab: Lab): { stop(): number } {
  let dueMs = performance.now() + BEAT_MS;
  let lateMs = 0;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    lateMs = Math.max(lateMs, nowMs - dueMs);
    dueMs = nowMs + BEAT_MS;
    lab.tell({ event: "beat" });
  }, BEAT_MS);
  return {
    stop: () => {
      clearInterval(timer);
      lab.tell({ event: "beats end" });
      return Math.round(lateMs);
    },
  };
}

/** Whether the kernel answers driver_override while the unbind hangs: why the agent has it read by another process. */
async function readHangs(lab: Lab): Promise<boolean> {
  const path = `/sys/bus/pci/devices/${CARDS.driven}/driver_override`;
  const commands = makeHostCommands({ clock: systemClock });
  return await commands.run(["cat", path], { timeoutMs: 1000, signal: never }).then(
    () => false,
    (error: unknown) =>
      isAppError(error, "command_timeout") || raise(`reading ${path}: ${String(error)} ${lab.roots.sysfs}`),
  );
}

async function stateOf(pid: number): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
}
