import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { judgeStart, judgeUse, type SessionRecord } from "./judge-session.ts";

const fresh: SessionRecord = { session: 0, from: 0, confirmed: true, isRestoreExpected: false, instance: null };

/** What one process sent when it started. */
interface Sent {
  readonly previous: number;
  readonly instance: string;
}

/** The control plane's record and what one or more disks hold, as starts and requests go by. */
class World {
  record: SessionRecord = fresh;
  isFrozen = false;
  #starts = 0;

  /** A start whose answer arrives, or gets lost before it is on the disk. */
  start(disk: { session: number }, isAnswerLost = false): Sent {
    this.#starts += 1;
    const sent = { previous: disk.session, instance: `start ${this.#starts}` };
    this.receive(sent, isAnswerLost ? { session: 0 } : disk);
    return sent;
  }

  /** What a process sent reaches the control plane, once or again. */
  receive(sent: Sent, disk: { session: number }): void {
    const verdict = judgeStart(this.record, sent);
    if (verdict.kind === "copy") this.isFrozen = true;
    else if (verdict.kind === "again") disk.session = verdict.session;
    else {
      this.record = {
        ...this.record,
        session: verdict.session,
        from: verdict.from,
        confirmed: false,
        isRestoreExpected: false,
        instance: sent.instance,
      };
      disk.session = verdict.session;
    }
  }

  /** A request; a live agent that is told that its session ended starts anew with what it has. */
  use(disk: { session: number }): void {
    const verdict = judgeUse(this.record, disk.session);
    if (verdict === "superseded") this.start(disk);
    else if (verdict !== "good")
      this.record = { ...this.record, session: disk.session, from: Math.max(this.record.from, 0), confirmed: true };
  }
}

describe("one holder", () => {
  test("is never taken for two, however often it crashes and answers get lost", () => {
    const step = fc.constantFrom("start", "start-lost", "use", "use-old");
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const world = new World();
        const disk = { session: 0 };
        let running = 0;
        for (const next of steps) {
          if (next === "start") {
            world.start(disk);
            running = disk.session;
          } else if (next === "start-lost") world.start(disk, true);
          else if (next === "use" && running === disk.session && running > 0) world.use(disk);
          // A request of a process that died arrives late: nobody reacts to its answer.
          else if (next === "use-old" && running > 0) judgeUse(world.record, Math.max(1, disk.session - 1));
          expect(world.isFrozen).toBe(false);
        }
      }),
      { numRuns: 3000 },
    );
  });

  test("whose start comes twice, or again after its session was used, has one session", () => {
    for (const isUsed of [false, true]) {
      const world = new World();
      const disk = { session: 0 };
      world.start(disk);
      world.use(disk);
      const sent = world.start(disk);
      if (isUsed) world.use(disk);
      world.receive(sent, disk);
      world.use(disk);
      expect(world).toMatchObject({ isFrozen: false, record: { session: 2, confirmed: true } });
      expect(disk.session).toBe(2);
    }
  });

  test("that was restored from a backup is expected when an operator said so, and only once", () => {
    const world = new World();
    const disk = { session: 0 };
    for (let starts = 0; starts < 5; starts += 1) {
      world.start(disk);
      world.use(disk);
    }
    const backup = { session: 2 };
    world.record = { ...world.record, isRestoreExpected: true };
    world.start(backup);
    world.use(backup);
    expect(world.isFrozen).toBe(false);
    expect(backup.session).toBe(6);
    world.start(disk);
    expect(world.isFrozen).toBe(true);
  });

  test("goes on when the control plane's database is older than it", () => {
    const world = new World();
    const disk = { session: 9 };
    world.use(disk);
    world.start(disk);
    world.use(disk);
    expect(world).toMatchObject({ isFrozen: false, record: { session: 10 } });
  });
});

test("two holders that both work are noticed, in whatever order they start and ask", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 5 }),
      fc.array(fc.boolean(), { minLength: 12, maxLength: 40 }),
      (starts, order) => {
        const world = new World();
        const original = { session: 0 };
        for (let index = 0; index < starts; index += 1) {
          world.start(original);
          world.use(original);
        }
        const copy = { ...original };
        if (starts === 0) world.start(original);
        world.start(copy);
        for (const isCopy of [...order, true, false, true, false]) world.use(isCopy ? copy : original);
        expect(world.isFrozen).toBe(true);
      },
    ),
    { numRuns: 2000 },
  );
});
