import { createCipheriv, hash, pbkdf2Sync, randomBytes, randomUUID } from "node:crypto";

/** Layout: LUKS1 on-disk format 1.2.3, as QEMU makes it. The key's slot is the first of eight; the others are free. */
const SECTOR_BYTES = 512;
const MASTER_KEY_BYTES = 64;
const STRIPES = 4000;
const SLOTS = 8;
const SLOT_SECTORS = 504;
const FIRST_SLOT_SECTOR = 8;
const PAYLOAD_SECTOR = FIRST_SLOT_SECTOR + SLOTS * SLOT_SECTORS;
const SLOT_ACTIVE = 0x00ac71f3;
const SLOT_FREE = 0x0000dead;
/**
 * The least that LUKS allows. Rounds make guessing slow, and a key of 256 random bits is not guessed. `qemu-img` cannot be asked
 * for fewer: it measures its rounds for two seconds of processor time, whatever time they are to take.
 */
const ROUNDS = 1000;

/** What a header takes of a disk, the room for its slots included. */
export const LUKS_HEADER_BYTES = PAYLOAD_SECTOR * SECTOR_BYTES;

/** A passphrase of 256 random bits, in the letters that QEMU accepts. */
export function makeDiskKey(): string {
  return randomBytes(32).toString("hex");
}

/**
 * A header for AES-256-XTS with a new master key that only this passphrase opens. What comes back is as long as its first slot; the
 * rest up to `LUKS_HEADER_BYTES` is zeros.
 */
export function makeLuksHeader(passphrase: string): Buffer {
  const masterKey = randomBytes(MASTER_KEY_BYTES);
  const slotSalt = randomBytes(32);
  const slotKey = pbkdf2Sync(passphrase, slotSalt, ROUNDS, MASTER_KEY_BYTES, "sha256");
  const material = encryptSectors(splitKey(masterKey), slotKey);
  const header = Buffer.alloc(FIRST_SLOT_SECTOR * SECTOR_BYTES + material.length);
  Buffer.from("4c554b53babe0001", "hex").copy(header);
  header.write("aes", 8);
  header.write("xts-plain64", 40);
  header.write("sha256", 72);
  header.writeUInt32BE(PAYLOAD_SECTOR, 104);
  header.writeUInt32BE(MASTER_KEY_BYTES, 108);
  const digestSalt = randomBytes(32);
  pbkdf2Sync(masterKey, digestSalt, ROUNDS, 20, "sha256").copy(header, 112);
  digestSalt.copy(header, 132);
  header.writeUInt32BE(ROUNDS, 164);
  header.write(randomUUID(), 168);
  for (let index = 0; index < SLOTS; index += 1) writeSlot(header, index, index === 0 ? slotSalt : null);
  material.copy(header, FIRST_SLOT_SECTOR * SECTOR_BYTES);
  masterKey.fill(0);
  return header;
}

function writeSlot(header: Buffer, index: number, salt: Buffer | null): void {
  const at = 208 + 48 * index;
  header.writeUInt32BE(salt === null ? SLOT_FREE : SLOT_ACTIVE, at);
  header.writeUInt32BE(salt === null ? 0 : ROUNDS, at + 4);
  salt?.copy(header, at + 8);
  header.writeUInt32BE(FIRST_SLOT_SECTOR + index * SLOT_SECTORS, at + 40);
  header.writeUInt32BE(STRIPES, at + 44);
}

/** The format's anti-forensic split: without all of it nothing of the key is left, so a disk that keeps some old block keeps no key. */
function splitKey(key: Buffer): Buffer {
  const stripes = randomBytes(STRIPES * key.length);
  const folded = Buffer.alloc(key.length);
  for (let index = 0; index < STRIPES - 1; index += 1) {
    xorInto(folded, stripes, index * key.length);
    diffuse(folded);
  }
  xorInto(folded, key, 0);
  folded.copy(stripes, (STRIPES - 1) * key.length);
  return stripes;
}

/** In place, as the next one: there are four thousand of each, and the agent does nothing else meanwhile. */
function diffuse(block: Buffer): void {
  const numbered = Buffer.alloc(36);
  for (let at = 0; at < block.length; at += 32) {
    numbered.writeUInt32BE(at / 32);
    block.copy(numbered, 4, at, at + 32);
    hash("sha256", numbered, "buffer").copy(block, at);
  }
}

function xorInto(target: Buffer, source: Buffer, offset: number): void {
  for (let at = 0; at < target.length; at += 4)
    target.writeInt32LE(target.readInt32LE(at) ^ source.readInt32LE(offset + at), at);
}

function encryptSectors(bytes: Buffer, key: Buffer): Buffer {
  const sectors: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    const number = Buffer.alloc(16);
    number.writeBigUInt64LE(BigInt(at / SECTOR_BYTES));
    sectors.push(createCipheriv("aes-256-xts", key, number).update(bytes.subarray(at, at + SECTOR_BYTES)));
  }
  return Buffer.concat(sectors);
}
