import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { importImage } from "../../deploy/demo/local-cloud.ts";
import { buildGuestImage, type GuestImage } from "../../deploy/guest-image/build-guest-image.ts";

const ROOT = join(import.meta.dirname, "../..");
export const GUEST_IMAGE_NAME = "hostler-guest";

/** The guest image, built once into the checkout's cache. */
export async function guestImage(): Promise<GuestImage> {
  return await buildGuestImage({
    outputDir: join(ROOT, ".cache/guest-image"),
    cacheDir: join(ROOT, ".cache/debian-packages"),
    onProgress: () => undefined,
  });
}

export async function importGuestImage(operator: ApiClient): Promise<void> {
  const image = await guestImage();
  await importImage(operator, GUEST_IMAGE_NAME, { path: image.path, sha256: image.manifest.sha256 });
}
