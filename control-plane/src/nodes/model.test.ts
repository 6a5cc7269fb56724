import type { NodeState } from "@hostler/shared/states.ts";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  allowedToFall,
  DOWN_LIMITS,
  isMember,
  judgeNodes,
  zoneOf,
  type JudgedFleet,
  type JudgedNode,
  type Verdict,
} from "./model.ts";

const NOW = 10_000_000;
const STEADY = { steadySinceMs: NOW - 3_600_000 };

function makeNode(overrides: Partial<JudgedNode> = {}): JudgedNode {
  return { id: "a", state: "ready", zone: null, lastHeardMs: NOW, downFrom: null, downAtMs: null, ...overrides };
}

function makeFleet(size: number, silent: number): JudgedNode[] {
  return Array.from({ length: size }, (_, index) =>
    makeNode({ id: `n${index}`, lastHeardMs: index < silent ? NOW - 31_000 : NOW - 1000 }),
  );
}

function fleetOf(nodes: readonly JudgedNode[]): JudgedFleet {
  const domains = Map.groupBy(nodes.filter(isMember), zoneOf);
  return { nodes, members: new Map([...domains].map(([zone, members]) => [zone, members.length])) };
}

function fallen(verdict: Verdict): number {
  return verdict.transitions.filter((transition) => transition.target === "down").length;
}

describe("silence", () => {
  test("of more than 18 s means down, of 18 s not", () => {
    expect(judgeNodes(NOW, fleetOf([makeNode({ lastHeardMs: NOW - 18_000 })]), STEADY).transitions).toEqual([]);
    expect(judgeNodes(NOW, fleetOf([makeNode({ lastHeardMs: NOW - 18_001 })]), STEADY).transitions).toEqual([
      { nodeId: "a", source: "ready", target: "down", reason: "not heard for 18 s" },
    ]);
  });

  test("of nodes that nobody waits for means nothing", () => {
    const states = ["enrolled", "quarantined", "frozen", "revoked", "retired"] as const;
    const nodes = states.map((state) => makeNode({ id: state, state, lastHeardMs: 0 }));
    expect(judgeNodes(NOW, fleetOf(nodes), STEADY)).toEqual({ transitions: [], brake: null, isGrace: false });
  });

  test("counts neither within a minute of an outage of ours nor while nobody listens", () => {
    const node = makeNode({ lastHeardMs: NOW - 600_000 });
    for (const steadySinceMs of [null, NOW, NOW - 59_999])
      expect(judgeNodes(NOW, fleetOf([node]), { steadySinceMs })).toEqual({
        transitions: [],
        brake: null,
        isGrace: true,
      });
    expect(fallen(judgeNodes(NOW, fleetOf([node]), { steadySinceMs: NOW - 60_000 }))).toBe(1);
  });
});

describe("a return", () => {
  test("leads to what the node was before, in a grace period too", () => {
    for (const downFrom of ["ready", "cordoned", "draining"] as const) {
      const node = makeNode({ state: "down", downFrom, downAtMs: NOW - 20_000, lastHeardMs: NOW - 4000 });
      const expected = [{ nodeId: "a", source: "down", target: downFrom, reason: null }];
      expect(judgeNodes(NOW, fleetOf([node]), STEADY).transitions).toEqual(expected);
      expect(judgeNodes(NOW, fleetOf([node]), { steadySinceMs: NOW }).transitions).toEqual(expected);
    }
  });
});

describe("the brake", () => {
  test("lets two of any number fall, and a fifth of many", () => {
    expect(fallen(judgeNodes(NOW, fleetOf(makeFleet(2, 2)), STEADY))).toBe(2);
    expect(judgeNodes(NOW, fleetOf(makeFleet(3, 3)), STEADY)).toMatchObject({
      transitions: [],
      brake: { silent: 3, nodes: 3 },
    });
    expect(fallen(judgeNodes(NOW, fleetOf(makeFleet(100, 20)), STEADY))).toBe(20);
    expect(judgeNodes(NOW, fleetOf(makeFleet(100, 21)), STEADY)).toMatchObject({
      transitions: [],
      brake: { silent: 21, nodes: 100 },
    });
  });

  test("counts those who fell within the last minute", () => {
    const fleet = makeFleet(100, 11).map((node, index) =>
      index >= 90
        ? {
            ...node,
            state: "down" as const,
            downFrom: "ready" as const,
            downAtMs: NOW - 59_000,
            lastHeardMs: NOW - 90_000,
          }
        : node,
    );
    expect(judgeNodes(NOW, fleetOf(fleet), STEADY).brake).toMatchObject({ silent: 21 });
    const later = fleet.map((node) => (node.downAtMs === null ? node : { ...node, downAtMs: NOW - 60_000 }));
    expect(fallen(judgeNodes(NOW, fleetOf(later), STEADY))).toBe(11);
  });

  test("of one zone stops all of them, and a zone that is silent as a whole stays up", () => {
    const zoned = makeFleet(40, 8).map((node, index) => ({ ...node, zone: index < 8 ? "a" : "b" }));
    expect(judgeNodes(NOW, fleetOf(zoned), STEADY)).toMatchObject({
      transitions: [],
      brake: { zone: "a", silent: 8, nodes: 8 },
    });
  });
});

const states: readonly NodeState[] = ["ready", "cordoned", "draining", "down", "quarantined", "enrolled"];
const arbitraryFleet = fc
  .array(
    fc.record({
      state: fc.constantFrom(...states),
      zone: fc.constantFrom("a", "b", null),
      silentMs: fc.integer({ min: 0, max: 120_000 }),
      downAgoMs: fc.option(fc.integer({ min: 0, max: 180_000 })),
    }),
    { maxLength: 60 },
  )
  .map((rows) =>
    rows.map((row, index): JudgedNode => ({
      id: `n${index}`,
      state: row.state,
      zone: row.zone,
      lastHeardMs: NOW - row.silentMs,
      downFrom: row.state === "down" ? "ready" : null,
      downAtMs: row.state === "down" ? NOW - (row.downAgoMs ?? 0) : row.downAgoMs === null ? null : NOW - row.downAgoMs,
    })),
  );

test("never do more fall in a domain than the brake allows, those of the last minute included", () => {
  fc.assert(
    fc.property(arbitraryFleet, (fleet) => {
      const { transitions } = judgeNodes(NOW, fleetOf(fleet), STEADY);
      const falling = new Set(transitions.filter((move) => move.target === "down").map((move) => move.nodeId));
      for (const [zone, members] of Map.groupBy(fleet, zoneOf)) {
        const watched = members.filter((node) => ["ready", "cordoned", "draining", "down"].includes(node.state));
        const gone = watched.filter(
          (node) => falling.has(node.id) || (node.downAtMs !== null && NOW - node.downAtMs < DOWN_LIMITS.brakeWindowMs),
        );
        const fellNow = watched.filter((node) => falling.has(node.id));
        if (fellNow.length > 0) expect(gone.length, zone).toBeLessThanOrEqual(allowedToFall(watched.length));
      }
    }),
  );
});

test("never does anybody fall in a grace period, and nobody falls who was heard", () => {
  fc.assert(
    fc.property(arbitraryFleet, fc.integer({ min: 0, max: 59_999 }), (fleet, steadyForMs) => {
      expect(fallen(judgeNodes(NOW, fleetOf(fleet), { steadySinceMs: NOW - steadyForMs }))).toBe(0);
      const heard = new Set(
        fleet.filter((node) => NOW - node.lastHeardMs <= DOWN_LIMITS.silenceMs).map((node) => node.id),
      );
      const { transitions } = judgeNodes(NOW, fleetOf(fleet), STEADY);
      expect(transitions.filter((move) => move.target === "down" && heard.has(move.nodeId))).toEqual([]);
    }),
  );
});

test("a node that flaps in whatever rhythm falls at most once a minute and stays down for ten seconds", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 600 }), { maxLength: 80 }), (heardAtSeconds) => {
      const heard = heardAtSeconds.map((second) => second * 1000);
      const falls: number[] = [];
      let node = makeNode({ lastHeardMs: 0 });
      for (let now = 0; now <= 600_000; now += 5000) {
        const lastHeardMs = Math.max(0, ...heard.filter((at) => at <= now));
        const [move] = judgeNodes(now, fleetOf([{ ...node, lastHeardMs }]), { steadySinceMs: -3_600_000 }).transitions;
        if (move === undefined) continue;
        if (move.target === "down") {
          expect(now - (falls.at(-1) ?? -Infinity)).toBeGreaterThanOrEqual(DOWN_LIMITS.cycleMsMin);
          falls.push(now);
          node = { ...node, state: "down", downFrom: "ready", downAtMs: now };
        } else {
          expect(now - (falls.at(-1) ?? Infinity)).toBeGreaterThanOrEqual(DOWN_LIMITS.downMsMin);
          node = { ...node, state: "ready", downFrom: null };
        }
      }
    }),
  );
});
