import fc from "fast-check";
import { expect, test } from "vitest";
import { chooseNodes, reasonAgainst, type Candidate, type PlacementWish } from "./choose-nodes.ts";

function makeCandidate(overrides: Partial<Candidate> = {}): Candidate {
  return {
    id: "a",
    name: "alpha",
    state: "ready",
    isOnline: true,
    isDriverUsable: true,
    protocolVersion: 6,
    labels: {},
    freeVcpus: 100,
    freeMemoryMib: 100_000,
    freeGpus: 4,
    isEmpty: true,
    cards: { total: 4, divided: 0 },
    mig: null,
    spreadWith: null,
    ...overrides,
  };
}

function makeWish(overrides: Partial<PlacementWish> = {}): PlacementWish {
  const gpus = { count: 1, kind: "h100" };
  return {
    driver: "mock",
    vcpus: 1,
    memoryMib: 512,
    gpus,
    access: null,
    nodeSelector: {},
    spreadBy: null,
    protocolVersion: 6,
    ...overrides,
  };
}

test("each node that does not do has one reason, the first that a person would want to know", () => {
  const wish = makeWish({ gpus: { count: 4, kind: "h100" }, nodeSelector: { disk: "nvme" }, spreadBy: "db" });
  const fitting = makeCandidate({ labels: { disk: "nvme" } });
  const cases: readonly (readonly [Partial<Candidate>, string | null])[] = [
    [{}, null],
    [{ state: "cordoned" }, "the node is cordoned"],
    [{ state: "down", isOnline: false, freeGpus: 0 }, "the node is down"],
    [{ state: "draining" }, "the node is draining"],
    [{ state: "quarantined" }, "the node is quarantined"],
    [{ isOnline: false }, "the node is offline"],
    [{ isDriverUsable: false }, "the node cannot run mock slices"],
    [
      { protocolVersion: 5 },
      "its agent speaks version 5 of the protocol, and ports or limits of bandwidth need 6: upgrade it",
    ],
    [{ labels: {} }, "the label disk is missing, not nvme"],
    [{ labels: { disk: "hdd" } }, "the label disk is hdd, not nvme"],
    [{ spreadWith: "db-1" }, "db-1 of db is there"],
    [{ freeGpus: 2 }, "2 of 4 h100 free"],
    [{ freeVcpus: -3 }, "0 of 1 vCPUs free"],
    [{ freeMemoryMib: 500 }, "500 of 512 MiB memory free"],
  ];
  for (const [overrides, reason] of cases) expect(reasonAgainst({ ...fitting, ...overrides }, wish)).toBe(reason);
});

test("bare metal takes an empty host with exactly the GPUs that were asked for, and says why another does not do", () => {
  const wish = makeWish({ driver: "host", access: "root", gpus: { count: 4, kind: "h100" } });
  const cases: readonly (readonly [Partial<Candidate>, string | null])[] = [
    [{}, null],
    [{ isDriverUsable: false }, "the node cannot run host slices with root"],
    [{ isEmpty: false, freeVcpus: 99 }, "other slices are there, and bare metal is the whole host"],
    [
      { cards: { total: 4, divided: 1 } },
      "1 of its cards is handed out in MIG parts, and bare metal takes whole cards",
    ],
    [
      { cards: { total: 8, divided: 0 }, freeGpus: 8 },
      "it has 8 GPUs, and bare metal for 4 takes a host with exactly so many",
    ],
    // One is quarantined, or of another kind.
    [{ freeGpus: 3 }, "3 of 4 h100 free"],
    [{ freeMemoryMib: 500 }, "500 of 512 MiB memory free"],
  ];
  for (const [overrides, reason] of cases) expect(reasonAgainst(makeCandidate(overrides), wish)).toBe(reason);
  const hosts = ["a", "b", "c"].map((id) => makeCandidate({ id }));
  expect(chooseNodes(hosts, wish, 2)).toEqual({
    kind: "chosen",
    slicesOf: new Map([
      ["a", 1],
      ["b", 1],
    ]),
  });
  expect(chooseNodes(hosts, wish, 4).kind).toBe("refused");
});

test("a gang that does not fit says how much room each node has", () => {
  const nodes = [makeCandidate({ id: "a", freeGpus: 3 }), makeCandidate({ id: "b", freeGpus: 1 })];
  const choice = chooseNodes(nodes, makeWish({ gpus: { count: 2, kind: "h100" } }), 4);
  expect(choice).toEqual({
    kind: "refused",
    reasons: new Map([
      ["a", "room for 1 of 4 slices"],
      ["b", "1 of 2 h100 free"],
    ]),
  });
});

const arbitraryCandidates = fc
  .array(
    fc.record({
      state: fc.constantFrom(
        "ready" as const,
        "ready" as const,
        "ready" as const,
        "cordoned" as const,
        "down" as const,
      ),
      isOnline: fc.constantFrom(true, true, true, false),
      freeGpus: fc.integer({ min: 0, max: 5 }),
      freeVcpus: fc.integer({ min: -1, max: 6 }),
      freeMemoryMib: fc.integer({ min: -1, max: 6 }),
      zone: fc.constantFrom("a", "b"),
      spreadWith: fc.constantFrom(null, null, "other"),
    }),
    { maxLength: 5 },
  )
  .map((rows) => rows.map(({ zone, ...row }, index) => makeCandidate({ ...row, id: `n${index}`, labels: { zone } })));
const arbitraryWish = fc
  .record({
    gpus: fc.integer({ min: 0, max: 3 }),
    vcpus: fc.integer({ min: 1, max: 3 }),
    memoryMib: fc.integer({ min: 1, max: 3 }),
    zone: fc.constantFrom(null, "a"),
    spreadBy: fc.constantFrom(null, "group"),
  })
  .map(({ gpus, zone, ...rest }) =>
    makeWish({ ...rest, gpus: { count: gpus, kind: null }, nodeSelector: zone === null ? {} : { zone } }),
  );

/** Tries every way to put the slices one by one. */
function canPlaceNaively(nodes: readonly Candidate[], wish: PlacementWish, left: number): boolean {
  if (left === 0) return true;
  return nodes.some((node, index) => {
    const fits =
      node.state === "ready" &&
      node.isOnline &&
      Object.entries(wish.nodeSelector).every(([key, value]) => node.labels[key] === value) &&
      (wish.spreadBy === null || node.spreadWith === null) &&
      node.freeGpus >= wish.gpus.count &&
      node.freeVcpus >= wish.vcpus &&
      node.freeMemoryMib >= wish.memoryMib;
    if (!fits) return false;
    const after = {
      ...node,
      freeGpus: node.freeGpus - wish.gpus.count,
      freeVcpus: node.freeVcpus - wish.vcpus,
      freeMemoryMib: node.freeMemoryMib - wish.memoryMib,
      spreadWith: wish.spreadBy === null ? node.spreadWith : "just placed",
    };
    return canPlaceNaively(nodes.with(index, after), wish, left - 1);
  });
}

test("a gang is chosen exactly when trying every way finds one; what is chosen fits, what is refused has all its reasons", () => {
  fc.assert(
    fc.property(arbitraryCandidates, arbitraryWish, fc.integer({ min: 1, max: 4 }), (nodes, wish, count) => {
      const choice = chooseNodes(nodes, wish, count);
      expect(choice.kind === "chosen").toBe(canPlaceNaively(nodes, wish, count));
      if (choice.kind === "refused") {
        expect([...choice.reasons.keys()]).toEqual(nodes.map((node) => node.id));
        for (const reason of choice.reasons.values()) expect(reason).not.toBe("");
        return;
      }
      let placed = 0;
      for (const [nodeId, slices] of choice.slicesOf) {
        const node = nodes.find((candidate) => candidate.id === nodeId);
        if (node === undefined) throw new Error(`${nodeId} was not asked about`);
        expect(reasonAgainst(node, wish)).toBeNull();
        expect(slices * wish.gpus.count).toBeLessThanOrEqual(node.freeGpus);
        expect(slices * wish.vcpus).toBeLessThanOrEqual(node.freeVcpus);
        expect(slices * wish.memoryMib).toBeLessThanOrEqual(node.freeMemoryMib);
        if (wish.spreadBy !== null) expect(slices).toBe(1);
        placed += slices;
      }
      expect(placed).toBe(count);
    }),
    { numRuns: 500 },
  );
});
