#!/bin/busybox sh
# The first program of the guest. It loads what the host's own boot would have loaded, and runs the cases.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -s /bin/busybox /bin/modprobe 2>/dev/null
mkdir -p /hostler/node_modules/@hostler /run
ln -s ../../shared /hostler/node_modules/@hostler/shared
ln -s ../../node-agent /hostler/node_modules/@hostler/node-agent
modprobe nvme
modprobe e1000e
modprobe xhci-pci
modprobe vfio_iommu_type1
echo '@@{"event":"booted"}'
cd /hostler
node --no-warnings test/chaos/vfio/guest/main.ts 2>&1
echo "@@{\"event\":\"ended\",\"code\":$?}"
poweroff -f
