import { terminalCreatedSchema } from "@hostler/shared/api/terminals.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { attachTerminalClient, terminalProtocols, type TerminalClient } from "@hostler/shared/terminal-client.ts";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Api } from "../api.ts";

interface TerminalViewProps {
  readonly api: Api;
  readonly allocationId: string;
  onEnded(): void;
}

/** A shell in the slice. Output is acknowledged when xterm has parsed it, so a flood never outruns the screen. */
export function TerminalView({ api, allocationId, onEnded }: TerminalViewProps): JSX.Element {
  const place = useRef<HTMLDivElement>(null);
  const [status, setStatus] = useState("connecting…");
  useEffect(() => {
    const element = place.current;
    if (element === null) return;
    const screen = new Terminal({
      fontSize: 13,
      cursorBlink: true,
      scrollback: 5000,
      theme: { background: "#101418" },
    });
    const fit = new FitAddon();
    screen.loadAddon(fit);
    screen.open(element);
    fit.fit();
    screen.focus();
    let client: TerminalClient | null = null;
    const connect = async (): Promise<void> => {
      const created = await api.post(
        `/api/tenant/v1/allocations/${allocationId}/terminals`,
        { cols: screen.cols, rows: screen.rows },
        terminalCreatedSchema,
      );
      const socket = new WebSocket(
        `${location.origin.replace(/^http/, "ws")}${created.socketPath}`,
        terminalProtocols(created.ticket),
      );
      client = connectScreen({ socket, screen, setStatus, onEnded });
    };
    connect().catch((error: unknown) => setStatus(describeError(error)));
    const onWindowResize = (): void => fit.fit();
    addEventListener("resize", onWindowResize);
    return () => {
      removeEventListener("resize", onWindowResize);
      client?.close();
      screen.dispose();
    };
  }, [allocationId]);
  return (
    <section class="terminal">
      <div ref={place} class="screen" />
      <p class="hint" data-terminal-status>
        {status}
      </p>
    </section>
  );
}

function connectScreen(parts: {
  readonly socket: WebSocket;
  readonly screen: Terminal;
  setStatus(text: string): void;
  onEnded(): void;
}): TerminalClient {
  const { socket, screen, setStatus } = parts;
  let ending: string | null = null;
  const client = attachTerminalClient(socket, {
    onOpen: () => setStatus("connected"),
    onOutput: (bytes, end) => screen.write(bytes, () => client.shown(end)),
    onNote: (text) => screen.write(`\r\n${text}\r\n`),
    onExit: ({ exitCode, signal }) => {
      ending = signal > 0 ? `ended by signal ${signal}` : `ended with exit code ${exitCode}`;
      client.close();
    },
    onClosed: ({ code, reason }) => {
      setStatus(ending ?? `closed: ${reason === "" ? `code ${code}` : reason}`);
      parts.onEnded();
    },
  });
  const encoder = new TextEncoder();
  screen.onData((text) => client.type(encoder.encode(text)));
  screen.onResize(({ cols, rows }) => client.resize(cols, rows));
  return client;
}
