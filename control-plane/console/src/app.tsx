import type { Whoami } from "@hostler/shared/api/common.ts";
import { useMemo, useState } from "preact/hooks";
import type { JSX } from "preact";
import { makeApi } from "./api.ts";
import { AllocationPage } from "./pages/allocation.tsx";
import { AllocationsPage } from "./pages/allocations.tsx";
import { NodesPage } from "./pages/nodes.tsx";
import { OperationsPage } from "./pages/operations.tsx";
import { SignIn } from "./pages/sign-in.tsx";
import { go, useRoute, type Route } from "./router.ts";
import { forgetApiKey, keepApiKey, readApiKey } from "./session.ts";
import type { Signed } from "./signed.ts";

/** Signed out: one form. Signed in: the pages that the key's permissions open. */
export function App(): JSX.Element {
  const [apiKey, setApiKey] = useState(readApiKey());
  const [whoami, setWhoami] = useState<Whoami | null>(null);
  const signOut = (): void => {
    forgetApiKey();
    setApiKey(null);
    setWhoami(null);
  };
  const signed = useMemo(
    (): Signed | null => (apiKey === null || whoami === null ? null : { api: makeApi(apiKey, signOut), whoami }),
    [apiKey, whoami],
  );
  if (signed === null) {
    const onSignedIn = (key: string, who: Whoami): void => {
      keepApiKey(key);
      setApiKey(key);
      setWhoami(who);
    };
    return <SignIn savedKey={apiKey} onSignedIn={onSignedIn} />;
  }
  return <Shell signed={signed} onSignOut={signOut} />;
}

function Shell({ signed, onSignOut }: { readonly signed: Signed; readonly onSignOut: () => void }): JSX.Element {
  const route = useRoute();
  const isOperator = signed.whoami.permissions.includes("fleet.node.read");
  return (
    <>
      <header>
        <b class="brand">Hostler</b>
        <nav>
          <NavLink path="/" label="Slices" isCurrent={route.page === "allocations" || route.page === "allocation"} />
          {isOperator && <NavLink path="/nodes" label="Hosts" isCurrent={route.page === "nodes"} />}
          <NavLink path="/operations" label="Operations" isCurrent={route.page === "operations"} />
        </nav>
        <span class="who">{signed.whoami.name}</span>
        <button type="button" class="quiet" onClick={onSignOut}>
          Sign out
        </button>
      </header>
      <main>{pageOf(route, signed)}</main>
    </>
  );
}

function pageOf(route: Route, signed: Signed): JSX.Element {
  switch (route.page) {
    case "allocations":
      return <AllocationsPage signed={signed} />;
    case "allocation":
      return <AllocationPage key={route.allocationId} signed={signed} allocationId={route.allocationId} />;
    case "nodes":
      return <NodesPage signed={signed} />;
    case "operations":
      return <OperationsPage signed={signed} />;
  }
}

function NavLink({
  path,
  label,
  isCurrent,
}: {
  readonly path: string;
  readonly label: string;
  readonly isCurrent: boolean;
}): JSX.Element {
  const onClick = (event: Event): void => {
    event.preventDefault();
    go(path);
  };
  return (
    <a href={path} class={isCurrent ? "current" : ""} onClick={onClick}>
      {label}
    </a>
  );
}
