/** The machine code of accelerator-probe.S. */
const CODE = Buffer.from(
  "+ozIjtguZg8BFvAADyDADAEPIsBm6hwADwAIAGa4EACO2I7AjtC/ABAAADHAuQAMAADzq8cFABAAAAMgAADHBQAgAAADMAAAxwUAMAAAgwAAAMcFCDAAAIMAIAAPIOCDyCAPIuC4ABAAAA8i2LmAAADADzINAAEAAA8wDyDADQAAAIAPIsDqjQAPABgAZrgQAI7YSMfEAAAgADHAD6IPMUjHxwAAEABIuFpaWlpaWlpauQCAAADzSKtIOUf4dQewKma6AQXu9Ov9Dx+AAAAAAAAAAAAAAAAA//8AAACazwD//wAAAJLPAP//AAAAmq8AHwDQAA8A",
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
