#!/bin/busybox sh
# The first program of the guest: only what it takes to reach the root disk.
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
  /bin/busybox insmod "$module"
done
/bin/busybox mount -t ext4 -o noatime /dev/vda2 /root
/bin/busybox mount -t devtmpfs dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
