import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
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

async function readGpus({ gpus, log }: SampleDeps, signal: AbortSignal): Promise<readonly GpuSample[]> {
  try {
    return await gpus.sample(signal);
  } catch (error) {
    signal.throwIfAborted();
    log.warn({ error: describeError(error) }, "GPUs cannot be sampled");
    return [];
  }
}
