import { whoamiSchema, type Whoami } from "@hostler/shared/api/common.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { makeApi } from "../api.ts";

interface SignInProps {
  /** The key of this tab, tried at once after a reload. */
  readonly savedKey: string | null;
  onSignedIn(apiKey: string, whoami: Whoami): void;
}

export function SignIn({ savedKey, onSignedIn }: SignInProps): JSX.Element {
  const [text, setText] = useState("");
  const [error, setError] = useState<string | null>(null);
  const [isBusy, setIsBusy] = useState(savedKey !== null);
  const attempt = async (apiKey: string): Promise<void> => {
    setIsBusy(true);
    setError(null);
    try {
      onSignedIn(apiKey, await makeApi(apiKey, () => undefined).get("/api/common/v1/whoami", whoamiSchema));
    } catch (failure) {
      setError(describeError(failure));
      setIsBusy(false);
    }
  };
  useEffect(() => {
    if (savedKey !== null) void attempt(savedKey);
  }, []);
  const onSubmit = (event: Event): void => {
    event.preventDefault();
    void attempt(text.trim());
  };
  return (
    <form class="sign-in" onSubmit={onSubmit}>
      <h1>Hostler</h1>
      <label>
        API key
        <input
          type="password"
          name="apiKey"
          autocomplete="off"
          placeholder="hst_…"
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <button type="submit" disabled={isBusy || text.trim() === ""}>
        {isBusy ? "Signing in…" : "Sign in"}
      </button>
      {error !== null && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
    </form>
  );
}
