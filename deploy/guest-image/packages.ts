/**
 * What the image is made of, all from Debian. `linux-image-cloud-amd64` only names the newest kernel package, which is
 * resolved at build time.
 */
export const KERNEL_META_PACKAGE = "linux-image-cloud-amd64";

/** Unpacked into the guest; only the listed files are taken. */
export const GUEST_FILES: Readonly<Record<string, readonly string[]>> = {
  "busybox-static": ["bin/busybox"],
  "dropbear-bin": ["usr/sbin/dropbear", "usr/bin/dropbearkey"],
  e2fsprogs: ["sbin/resize2fs"],
  libc6: ["lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2"],
  libext2fs2: ["lib/x86_64-linux-gnu/libext2fs.so.2", "lib/x86_64-linux-gnu/libe2p.so.2"],
  "libcom-err2": ["lib/x86_64-linux-gnu/libcom_err.so.2"],
  libcrypt1: ["lib/x86_64-linux-gnu/libcrypt.so.1"],
  libtomcrypt1: ["usr/lib/x86_64-linux-gnu/libtomcrypt.so.1"],
  libtommath1: ["usr/lib/x86_64-linux-gnu/libtommath.so.1"],
  libgmp10: ["usr/lib/x86_64-linux-gnu/libgmp.so.10"],
  zlib1g: ["lib/x86_64-linux-gnu/libz.so.1"],
};

/** Unpacked and run on the build host, never installed there. */
export const TOOL_PACKAGES = ["syslinux", "syslinux-common", "mtools", "dosfstools"] as const;

/** Loaded by the initramfs, in this order, before the root disk is there. */
export const BOOT_MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_modern_dev",
  "virtio_pci_legacy_dev",
  "virtio_pci",
  "virtio_blk",
] as const;

/** Loaded from the root disk, in this order. */
export const LATE_MODULES = [
  "virtio_console",
  "cdrom",
  "isofs",
  "failover",
  "net_failover",
  "virtio_net",
  "virtio-rng",
  "pvpanic",
  "pvpanic-mmio",
  "button",
  "evdev",
] as const;

/** Programs that the build host must have itself, and the Debian package of each. */
export const BUILD_HOST_PROGRAMS: Readonly<Record<string, string>> = {
  "apt-get": "apt",
  "dpkg-deb": "dpkg",
  mke2fs: "e2fsprogs",
  debugfs: "e2fsprogs",
  "qemu-img": "qemu-utils",
};
