const PATTERN = /^(?:PCI:)?(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?$/i;

/**
 * One spelling for the many that tools use: `PCI:0000:19:00`, `00000000:19:00.0` and `19:00.0` are all `0000:19:00.0`.
 * Without a function number it is the first one, which is the GPU itself. Null for anything else.
 */
export function normalPciAddress(text: string): string | null {
  const match = PATTERN.exec(text);
  if (match === null) return null;
  const [, domain = "0000", bus, device, fn = "0"] = match;
  // nvidia-smi pads the domain to eight digits, sysfs to four.
  return `${domain.replace(/^0+(?=[0-9a-f]{4,}$)/i, "")}:${bus}:${device}.${fn}`.toLowerCase();
}
