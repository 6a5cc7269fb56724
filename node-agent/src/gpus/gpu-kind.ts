/** Words of a product name that tell the maker, the form or the memory, not which GPU it is. */
const NOISE =
  /^(?:nvidia|geforce|tesla|quadro|\d+gb|hbm\d*e?|sxm\d?|pcie|server|workstation|edition|generation|blackwell|max-q)$/;

/** The short label that requests use: "NVIDIA H100 80GB HBM3" is `h100`, "NVIDIA GeForce RTX 4090" is `rtx-4090`. */
export function gpuKindOf(model: string): string {
  const words = model
    .toLowerCase()
    .split(/[\s_-]+/)
    .filter((word) => word !== "" && !NOISE.test(word));
  const kind = words.join("-").replaceAll(/[^a-z0-9.-]/g, "");
  return kind === "" ? "gpu" : kind.slice(0, 64);
}
