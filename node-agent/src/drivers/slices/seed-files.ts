import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { TERMINAL_PORTS } from "./slice-paths.ts";

/** The user that terminals and the tenant's keys log in as. */
export const GUEST_USER = "hostler";

export interface SeedSettings {
  readonly readyToken: string;
  readonly platformPublicKey: string;
  readonly network: SeedNetwork;
}

export interface SeedNetwork {
  readonly mac: string;
  /** With its prefix length; null asks by DHCP. */
  readonly address: string | null;
  readonly gateway: string | null;
  readonly resolvers: readonly string[];
  /** With its prefix length; null: the slice has no IPv6. */
  readonly address6: string | null;
  readonly gateway6: string | null;
}

/**
 * The files of the first-boot disk. NoCloud's four for images with cloud-init, and two that our own small image reads
 * (`hostler.env`, `authorized_keys`). JSON is YAML, so nothing here is built by joining strings into YAML. What the platform
 * needs goes into vendor-data, which a tenant's user-data cannot remove by accident.
 */
export function seedFiles(spec: SliceSpec, settings: SeedSettings): Readonly<Record<string, string>> {
  const keys = [settings.platformPublicKey, ...spec.sshPublicKeys];
  const instanceId = `${spec.allocationId}-${spec.generation}`;
  return {
    "meta-data": `${JSON.stringify({ "instance-id": instanceId, "local-hostname": spec.hostName })}\n`,
    "user-data": spec.userData ?? "#cloud-config\n",
    "vendor-data": `#cloud-config\n${JSON.stringify(vendorData(settings.readyToken, keys))}\n`,
    "network-config": `${JSON.stringify(networkConfig(settings.network))}\n`,
    "hostler.env": environmentFile(spec, settings, instanceId),
    authorized_keys: keys.map((key) => `${key}\n`).join(""),
  };
}

/** Read by our own image line by line, never evaluated. Every value is ours or matches a pattern of the task's schema. */
function environmentFile(spec: SliceSpec, { network, readyToken }: SeedSettings, instanceId: string): string {
  const values = {
    INSTANCE_ID: instanceId,
    HOSTNAME: spec.hostName,
    USERNAME: GUEST_USER,
    READY_TOKEN: readyToken,
    MAC: network.mac,
    ADDRESS: network.address ?? "",
    GATEWAY: network.gateway ?? "",
    DNS: network.resolvers.join(" "),
    ADDRESS6: network.address6 ?? "",
    GATEWAY6: network.gateway6 ?? "",
  };
  return Object.entries(values)
    .map(([name, value]) => `${name}=${value}\n`)
    .join("");
}

/** Version 2 of cloud-init's network configuration. */
function networkConfig({ mac, address, gateway, resolvers, address6, gateway6 }: SeedNetwork): unknown {
  const routes = [
    ...(gateway === null ? [] : [{ to: "0.0.0.0/0", via: gateway }]),
    ...(gateway6 === null ? [] : [{ to: "::/0", via: gateway6 }]),
  ];
  const fixed = {
    addresses: [address, ...(address6 === null ? [] : [address6])],
    ...(routes.length === 0 ? {} : { routes }),
    ...(resolvers.length === 0 ? {} : { nameservers: { addresses: resolvers } }),
  };
  const card = { match: { macaddress: mac }, ...(address === null ? { dhcp4: true } : fixed) };
  return { version: 2, ethernets: { primary: card } };
}

/**
 * A read on a port whose host side is closed ends at once, a write waits for the host to connect. So a line is written first:
 * it waits without spinning, and SSH allows lines before its version.
 */
const BRIDGE_SCRIPT = `#!/bin/sh
mkdir -p /run/sshd
while :; do
  { printf 'hostler\\r\\n' >&3 && /usr/sbin/sshd -i <&3 >&3; } 3<>"/dev/virtio-ports/hostler.ssh.$1" || sleep 1
done
`;

const BRIDGE_UNIT = `[Unit]
Description=Hostler terminal port %i

[Service]
ExecStart=/usr/local/sbin/hostler-bridge %i
Restart=always

[Install]
WantedBy=multi-user.target
`;

/**
 * What the guest finds on its PCI bus, without what every machine of ours has (virtio, QEMU's own), and that it is up. Three
 * times: a message of the kernel may cut one in two.
 */
function readyScript(readyToken: string): string {
  return `#!/bin/sh
seen=
for device in /sys/bus/pci/devices/*; do
  read -r vendor <"$device/vendor" && read -r model <"$device/device" || continue
  case $vendor in 0x1af4 | 0x1b36) continue ;; esac
  seen="$seen \${vendor#0x}:\${model#0x}"
done
for n in 1 2 3; do
  printf '\\nHOSTLER-SEES %s%s .\\nHOSTLER-READY %s\\n' ${readyToken} "$seen" ${readyToken} > /dev/ttyS0
  sleep 1
done
`;
}

/** For the boots after cloud-init's first one: a machine that is made again over its disk has to say so too. */
const READY_UNIT = `[Unit]
Description=Hostler ready line
After=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/hostler-ready

[Install]
WantedBy=multi-user.target
`;

/** For images with cloud-init: the user with its keys, sshd on the virtio-serial ports, and the ready line. */
function vendorData(readyToken: string, keys: readonly string[]): unknown {
  const ports = Array.from({ length: TERMINAL_PORTS }, (_, index) => `hostler-bridge@${index}`);
  return {
    users: [
      "default",
      {
        name: GUEST_USER,
        shell: "/bin/bash",
        sudo: "ALL=(ALL) NOPASSWD:ALL",
        lock_passwd: true,
        ssh_authorized_keys: keys,
      },
    ],
    write_files: [
      { path: "/usr/local/sbin/hostler-bridge", permissions: "0755", content: BRIDGE_SCRIPT },
      { path: "/etc/systemd/system/hostler-bridge@.service", permissions: "0644", content: BRIDGE_UNIT },
      { path: "/usr/local/sbin/hostler-ready", permissions: "0700", content: readyScript(readyToken) },
      { path: "/etc/systemd/system/hostler-ready.service", permissions: "0644", content: READY_UNIT },
    ],
    runcmd: [
      ["systemctl", "daemon-reload"],
      ["systemctl", "enable", "--now", ...ports],
      ["systemctl", "enable", "hostler-ready"],
      ["/usr/local/sbin/hostler-ready"],
    ],
  };
}
