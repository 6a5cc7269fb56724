import type { ImageReference } from "@hostler/shared/tasks.ts";

/** Where base images come from: the control plane, over the agent's mTLS connection. */
export interface ImageSource {
  /**
   * The bytes of the image from `offset` on. Rejects with `service_unavailable` when the connection fails (resume with the
   * new offset), with `image_unknown` when it is gone. Nothing is trusted: the caller hashes what it got.
   */
  open(
    image: ImageReference,
    options: { readonly offset: number; readonly signal: AbortSignal },
  ): Promise<AsyncIterable<Uint8Array>>;
}
