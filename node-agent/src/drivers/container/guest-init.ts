/** Inside of every container, read-only: the seed's files, and a program that runs the init below whatever the image brings. */
export const GUEST_SEED = "/run/hostler/seed";
export const GUEST_BUSYBOX = "/run/hostler/busybox";
/** Name of the slice's network card inside of it. */
export const GUEST_LINK = "eth0";

/**
 * The first process of a container. It is ours and runs on our own shell, so nothing of the tenant's runs before the ready line
 * is written, and afterwards nobody holds the console's file any more: a tenant cannot fill it. An image with systemd gets its
 * own init; any other keeps this one, which reaps what is left behind and ends everything on request.
 * Values are read line by line and never evaluated.
 */
export const INIT_SCRIPT = `export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
b=${GUEST_BUSYBOX}
seed=${GUEST_SEED}
value() { $b sed -n "s/^$1=//p" $seed/hostler.env; }
fail() { echo "hostler: $1"; exit 1; }

# Ended on request: everybody is asked, then the rest is killed with this process.
stop() {
  trap '' 37 TERM
  kill -TERM -1 2>/dev/null
  for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    set -- /proc/[0-9]*
    [ $# -le 1 ] && exit 0
    $b sleep 0.2
  done
  exit 0
}
trap stop 37 TERM

# Some runtimes plug the cable in after the start.
n=0
until [ -e /sys/class/net/${GUEST_LINK} ] || [ $n -ge 100 ]; do
  n=$((n + 1))
  $b sleep 0.1
done
$b ip link set dev ${GUEST_LINK} address "$(value MAC)" || fail "the network card has no address"
$b ip address add "$(value ADDRESS)" dev ${GUEST_LINK} || fail "the network has no address"
$b ip link set dev ${GUEST_LINK} up || fail "the network does not come up"
gateway=$(value GATEWAY)
[ -n "$gateway" ] && $b ip route add default via "$gateway"
address6=$(value ADDRESS6)
[ -n "$address6" ] && $b ip -6 address add "$address6" dev ${GUEST_LINK} && $b ip -6 route add default via "$(value GATEWAY6)"
servers=$(value DNS)
if [ -n "$servers" ]; then
  $b rm -f /etc/resolv.conf
  for server in $servers; do echo "nameserver $server"; done >/etc/resolv.conf
fi
if [ -s $seed/authorized_keys ]; then
  $b mkdir -p -m 0700 /root/.ssh
  $b cp $seed/authorized_keys /root/.ssh/authorized_keys && $b chmod 0600 /root/.ssh/authorized_keys
fi
if [ -d /etc/cloud ]; then
  $b mkdir -p /var/lib/cloud/seed/nocloud
  $b cp $seed/meta-data $seed/user-data $seed/network-config /var/lib/cloud/seed/nocloud/
fi
state=/var/lib/hostler
$b mkdir -p -m 0700 $state || fail "the disk cannot be written"
first=no
[ "$($b cat $state/instance 2>/dev/null)" = "$(value INSTANCE_ID)" ] || first=yes
value INSTANCE_ID >$state/instance || fail "the disk cannot be written"

# What a program of the tenant would do first with a GPU. Its nodes are the arguments of this init.
seen=
for node in "$@"; do
  (: <"$node") 2>/dev/null && seen="$seen $node"
done
[ $# -gt 0 ] && printf '\\nHOSTLER-SEES %s%s .' "$(value READY_TOKEN)" "$seen"
printf '\\nHOSTLER-READY %s\\n' "$(value READY_TOKEN)"
exec </dev/null >/dev/null 2>&1

# A tenant's program runs once for each instance, as cloud-init does it.
if [ $first = yes ] && [ "$($b head -c 2 $seed/user-data)" = '#!' ]; then
  $b cp $seed/user-data $state/user-data && $b chmod 0700 $state/user-data
  $state/user-data >/var/log/hostler-user-data.log 2>&1 &
fi
[ -x /lib/systemd/systemd ] && [ -x /sbin/init ] && exec /sbin/init
while :; do
  $b sleep 3600 &
  wait $!
done
`;

/**
 * The nodes that the init has to be able to open before the slice is handed over. Those of displays are for a group of the host's
 * own, and computing does without them.
 */
export function provenDevices(devices: readonly string[]): readonly string[] {
  return devices.filter((device) => !device.startsWith("/dev/dri/"));
}

/** Runs the init, whatever the runtime. `devices`: all device nodes that the container gets. */
export function initArgv(devices: readonly string[]): readonly string[] {
  return [GUEST_BUSYBOX, "sh", `${GUEST_SEED}/init`, ...provenDevices(devices)];
}

/** A terminal's shell: root's own if the image has it, ours if the image has none at all. */
export const TERMINAL_SCRIPT = `b=${GUEST_BUSYBOX}
shell=$($b sed -n 's/^root:.*://p' /etc/passwd 2>/dev/null)
cd /root 2>/dev/null
for candidate in "$shell" /bin/bash /bin/sh; do
  [ -n "$candidate" ] && [ -x "$candidate" ] && exec "$candidate" -l
done
exec $b sh -l
`;
