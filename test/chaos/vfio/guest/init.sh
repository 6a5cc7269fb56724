#!/bin/busybox sh
# The first program of the guest. Its root is the root of this very host, read-only, with a layer in memory above it: so every program
# that tests have is there too. What a host's own boot would start is left out, and what it would load is loaded.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do modprobe "$module"; done </modules

mkdir -p /lower /layer /lab /root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /lower
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose lab /lab
mount -t tmpfs layer /layer
mkdir /layer/up /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/up,workdir=/layer/work root /root
. /lab/settings
mkdir -p /root/opt/hostler /root/lib/modules
mount --bind "/lower$REPOSITORY" /root/opt/hostler
mount --bind "/lower$MODULES" /root/lib/modules
for folder in tmp run var/tmp var/lib/hostler-agent var/cache/hostler-agent var/log etc/systemd/system; do
  mkdir -p /root/$folder
  # As large as an agent wants its disk to be; what is written is little.
  mount -t tmpfs -o size=16g layer /root/$folder
done
cp -a /lab/root/. /root/
: >/root/etc/fstab
# Marks of containers: this host may be one, the guest is not.
rm -f /root/.dockerenv /root/run/.containerenv
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
umount /proc /sys
exec switch_root /root /lib/systemd/systemd
