const STORAGE_KEY = "hostler.apiKey";

/** The API key lives in this tab only and is sent as a bearer token: no cookie, so no request rides on it unasked. */
export function readApiKey(): string | null {
  return sessionStorage.getItem(STORAGE_KEY);
}

export function keepApiKey(apiKey: string): void {
  sessionStorage.setItem(STORAGE_KEY, apiKey);
}

export function forgetApiKey(): void {
  sessionStorage.removeItem(STORAGE_KEY);
}
