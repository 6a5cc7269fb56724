/** Requests by route pattern and status, counted in this process. */
export interface RequestCounts {
  count(method: string, route: string, status: number): void;
  read(): readonly (readonly [Readonly<Record<string, string>>, number])[];
}

export function makeRequestCounts(): RequestCounts {
  const counts = new Map<string, number>();
  return {
    count: (method, route, status) => {
      const key = `${method} ${route} ${status}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    },
    read: () =>
      [...counts].map(([key, value]) => {
        const [method = "", route = "", status = ""] = key.split(" ");
        return [{ method, route, status }, value] as const;
      }),
  };
}
