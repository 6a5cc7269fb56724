const SECTOR_BYTES = 512;
const FIRST_PARTITION_SECTOR = 2048;
const TYPE_FAT16_LBA = 0x0e;
const TYPE_LINUX = 0x83;

/**
 * A BIOS disk: boot code, a FAT partition with the kernel, and the root partition. The root partition is declared to the
 * end of what an MBR can say; Linux cuts it to the disk's real end at boot. So a tenant's larger disk needs no
 * repartitioning, only a grown file system.
 */
export function diskImage(parts: {
  readonly bootCode: Uint8Array;
  readonly fat: Uint8Array;
  readonly root: Uint8Array;
}): Buffer {
  if (parts.bootCode.length > 440)
    throw new Error(`the boot code has ${parts.bootCode.length} bytes; an MBR holds 440`);
  if (parts.fat.length % SECTOR_BYTES !== 0 || parts.root.length % SECTOR_BYTES !== 0)
    throw new Error("partitions must be whole sectors");
  const fatSectors = parts.fat.length / SECTOR_BYTES;
  const rootSector = FIRST_PARTITION_SECTOR + fatSectors;
  const disk = Buffer.alloc(FIRST_PARTITION_SECTOR * SECTOR_BYTES + parts.fat.length + parts.root.length);
  disk.set(parts.bootCode, 0);
  // Disk signature: fixed, so that the image is reproducible.
  disk.writeUInt32LE(0x54534f48, 440);
  partitionEntry({ active: true, type: TYPE_FAT16_LBA, firstSector: FIRST_PARTITION_SECTOR, sectors: fatSectors }).copy(
    disk,
    446,
  );
  partitionEntry({ active: false, type: TYPE_LINUX, firstSector: rootSector, sectors: 0xffffffff - rootSector }).copy(
    disk,
    462,
  );
  disk.writeUInt16LE(0xaa55, 510);
  disk.set(parts.fat, FIRST_PARTITION_SECTOR * SECTOR_BYTES);
  disk.set(parts.root, rootSector * SECTOR_BYTES);
  return disk;
}

function partitionEntry(partition: {
  readonly active: boolean;
  readonly type: number;
  readonly firstSector: number;
  readonly sectors: number;
}): Buffer {
  const entry = Buffer.alloc(16);
  entry.writeUInt8(partition.active ? 0x80 : 0, 0);
  // Cylinder, head and sector are at their "use LBA" value.
  entry.set([0xfe, 0xff, 0xff], 1);
  entry.writeUInt8(partition.type, 4);
  entry.set([0xfe, 0xff, 0xff], 5);
  entry.writeUInt32LE(partition.firstSector, 8);
  entry.writeUInt32LE(partition.sectors, 12);
  return entry;
}
