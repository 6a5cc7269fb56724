import type { Socket } from "node:net";

/** The open connections of each node on this replica, so that a revocation can cut them. */
export interface LiveSockets {
  add(nodeId: string, socket: Socket): void;
  cut(nodeId: string): void;
}

export function makeLiveSockets(): LiveSockets {
  const byNode = new Map<string, Set<Socket>>();
  return {
    add: (nodeId, socket) => {
      const sockets = byNode.get(nodeId) ?? new Set();
      if (sockets.has(socket)) return;
      byNode.set(nodeId, sockets.add(socket));
      socket.once("close", () => {
        sockets.delete(socket);
        if (sockets.size === 0 && byNode.get(nodeId) === sockets) byNode.delete(nodeId);
      });
    },
    cut: (nodeId) => {
      for (const socket of byNode.get(nodeId) ?? []) socket.destroy();
    },
  };
}
