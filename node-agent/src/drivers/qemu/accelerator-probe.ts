/** The machine code of accelerator-probe.S. */
const CODE = Buffer.from(
  [
    "+ozIjtguZg8BFuABDyDADAEPIsBm6hwADwAIAGa4EACO2I7AjtC/ABAAADHAuQAUAADzq8cFABAAAAMgAADHBQAgAAADMAAAxwUY",
    "IAAAA0AAAMcFuE8AAJMA4P6/ADAAALiDAAAAuQgAAACJBwUAACAAg8cI4vQPIOCDyCAPIuC4ABAAAA8i2LmAAADADzINAAEAAA8w",
    "DyDADQAAAIAPIsDqqAAPABgAZrgQAI7YjsCO0EjHxAAAHwAxwA+iDzG4kwEPAL/gUAAA6K8AAAC4rAEPAL8AUgAA6KAAAAAPARwl",
    "5gEPAEjHBCUAAAABKgAAAEiDPCUAAAABKnV9uwAA4P7Hg/AAAAD/AQAAx4PgAwAACwAAAMeDIAMAACAAAgDHg4ADAABAQg8ARTH/",
    "+/T6QYP/BXL3vwAAIAC5AAAQAEi4WlpaWlpaWlrzSKu+AAAgALkAABAAMdJIAxZIiRZIg8YI/8l18rkAh5MDSAHK/8l1+bAqZroB",
    "Be769Ov8ZokHZsdHAhgAZsdHBACOwegQiUcGw0iDxAjHBCVAMAAAgwAAAQ8BPCUAAAABSM9B/8fHg7AAAAAAAAAASM8PH0QAAAAA",
    "AAAAAAAA//8AAACbzwD//wAAAJPPAP//AAAAm68AHwDAAQ8ADwIAUAAAAAAAAA==",
  ].join(""),
  "base64",
);
const ROM_BYTES = 64 * 1024;
const RESET_VECTOR = 0xfff0;
const JUMP_NEAR = 0xe9;

/** What the probe writes to isa-debug-exit makes QEMU end with (0x2A << 1) | 1. */
export const PROBE_EXIT_CODE = 85;

/** A firmware image that holds the probe: the processor starts at the reset vector, 16 bytes below the end, and jumps to the code. */
export function probeFirmware(): Buffer {
  const rom = Buffer.alloc(ROM_BYTES);
  CODE.copy(rom, 0);
  rom.writeUInt8(JUMP_NEAR, RESET_VECTOR);
  // Relative to the next instruction, modulo the 64 KiB segment: back to offset 0.
  rom.writeUInt16LE(ROM_BYTES - (RESET_VECTOR + 3), RESET_VECTOR + 1);
  return rom;
}
