import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import type { GpuSample, TelemetrySample } from "@hostler/shared/node-protocol.ts";
import type { HostReader } from "../host/facts.ts";
import type { Log } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";

interface SampleDeps {
  readonly host: Pick<HostReader, "sample">;
  readonly gpus: GpuHost;
  readonly clock: Clock;
  readonly log: Log;
}

/** One look at host and GPUs. GPUs that cannot be read are left out, never invented: the host's half still counts. */
export async function readSample(deps: SampleDeps, signal: AbortSignal): Promise<TelemetrySample> {
  const at = deps.clock.now().toISOString();
  const [host, gpus] = await Promise.all([deps.host.sample(), readGpus(deps, signal)]);
  return { at, simulated: deps.gpus.simulated, host, gpus: [...gpus] };
}

/** With the four seconds that a program which hangs takes to be killed, less than from one sample to the next. */
const GPUS_MS = 5000;

async function readGpus({ gpus, clock, log }: SampleDeps, signal: AbortSignal): Promise<readonly GpuSample[]> {
  const over = new AbortController();
  const late = new AbortController();
  void clock.sleep(GPUS_MS, over.signal).then(
    () => late.abort(new AppError("command_timeout", { detail: `GPUs did not answer within ${GPUS_MS / 1000} s.` })),
    () => "They answered.",
  );
  try {
    return await gpus.sample(AbortSignal.any([signal, late.signal]));
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ error: describeError(error) }, "GPUs cannot be sampled");
    return [];
  } finally {
    over.abort(new Error("over"));
  }
}
