import type { Config } from "../config.ts";
import type { Listener } from "./listeners.ts";

export type ListenerName = "public" | "enrol" | "node";

/** Where we are reached. Ports are known only after listening, since a port of 0 takes a free one. */
export interface Addresses {
  readonly listeners: Map<ListenerName, Listener>;
  publicUrl(): string;
  /** Host and port of a listener, for somebody who reached us as `requestHost` (the Host header of the request). */
  of(name: "enrol" | "node", requestHost?: string): string;
}

export function makeAddresses(config: Config): Addresses {
  const listeners = new Map<ListenerName, Listener>();
  const port = (name: ListenerName): number => listeners.get(name)?.port ?? 0;
  return {
    listeners,
    publicUrl: () => config.publicUrl ?? `http://${config.publicListen.host}:${port("public")}`,
    of: (name, requestHost) => {
      const asked =
        requestHost?.replace(/:\d+$/, "") ??
        listenHost(name === "enrol" ? config.enrolListen.host : config.nodeListen.host);
      return `${config.advertisedHost ?? (asked === "" ? "127.0.0.1" : asked)}:${port(name)}`;
    },
  };
}

/** A listener on every address is reached here at loopback. */
function listenHost(host: string): string {
  return host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host;
}
