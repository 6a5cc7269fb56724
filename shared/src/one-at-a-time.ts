export type InTurn = <Result>(work: () => Promise<Result>) => Promise<Result>;

/** Runs what it is given one after another, first come, first served. A failure is its own caller's alone: the next one runs all the same. */
export function oneAtATime(): InTurn {
  let last: Promise<unknown> = Promise.resolve();
  return async (work) => {
    const mine = last.then(work);
    last = mine.catch(() => "Its caller hears of it.");
    return await mine;
  };
}
