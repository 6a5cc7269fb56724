/** What this host calls itself to the control plane, which takes letters, digits, dots, dashes and underscores; kernels take more. */
export function reportedName(hostName: string): string {
  const plain = hostName
    .replaceAll(/[^A-Za-z0-9._-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 253);
  return plain === "" ? "host" : plain;
}
