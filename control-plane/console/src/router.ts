import { useEffect, useState } from "preact/hooks";

export type Route =
  | { readonly page: "allocations" }
  | { readonly page: "allocation"; readonly allocationId: string }
  | { readonly page: "nodes" }
  | { readonly page: "operations" };

/** The page of a path; anything unknown is the first page. */
export function routeOf(path: string): Route {
  const allocationId = /^\/allocations\/(alc_[0-9a-f-]+)$/.exec(path)?.[1];
  if (allocationId !== undefined) return { page: "allocation", allocationId };
  if (path === "/operations") return { page: "operations" };
  return path === "/nodes" ? { page: "nodes" } : { page: "allocations" };
}

export function go(path: string): void {
  history.pushState(null, "", path);
  dispatchEvent(new PopStateEvent("popstate"));
}

export function useRoute(): Route {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const onChange = (): void => setPath(location.pathname);
    addEventListener("popstate", onChange);
    return () => removeEventListener("popstate", onChange);
  }, []);
  return routeOf(path);
}
