const COMPACT = /^[\w-]+\.[\w-]+\.([\w-]+)$/;

/**
 * Throws unless the JWS is spelled the one way that its signer spelled it. Header and payload are signed as text, but many texts
 * decode to one signature: white space, and the bits of the last letter that nobody reads. Whoever counts tasks, results or
 * proofs by their text would take such a twin for another one.
 */
export function requireOneSpelling(jws: string): void {
  const [, signature] = COMPACT.exec(jws) ?? [];
  if (signature === undefined || Buffer.from(signature, "base64url").toString("base64url") !== signature)
    throw new Error("it is not spelled as a compact JWS is");
}
