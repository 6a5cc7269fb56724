import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { TERMINAL_PORTS } from "./slice-paths.ts";

/** The user that terminals and the tenant's keys log in as. */
export const GUEST_USER = "hostler";

export interface SeedSettings {
  readonly readyToken: string;
  readonly platformPublicKey: string;
  readonly network: { readonly mac: string; readonly address: string | null; readonly gateway: string | null };
}

/**
 * The files of the first-boot disk. NoCloud's four for images with cloud-init, and two that our own small image reads
 * (`hostler.env`, `authorized_keys`). JSON is YAML, so nothing here is built by joining strings into YAML. What the platform
 * needs goes into vendor-data, which a tenant's user-data cannot remove by accident.
 */
export function seedFiles(spec: SliceSpec, settings: SeedSettings): Readonly<Record<string, string>> {
  const { network } = settings;
  const keys = [settings.platformPublicKey, ...spec.sshPublicKeys];
  return {
    "meta-data": JSON.stringify({
      "instance-id": `${spec.allocationId}-${spec.generation}`,
      "local-hostname": spec.hostName,
    }),
    "user-data": spec.userData ?? "#cloud-config\n{}\n",
    "vendor-data": `#cloud-config\n${JSON.stringify(vendorData(settings.readyToken, keys))}\n`,
    "network-config": JSON.stringify({
      version: 2,
      ethernets: {
        primary: {
          match: { macaddress: network.mac },
          ...(network.address === null ? { dhcp4: true } : { addresses: [network.address] }),
        },
      },
    }),
    "hostler.env": Object.entries({
      INSTANCE_ID: `${spec.allocationId}-${spec.generation}`,
      HOSTNAME: spec.hostName,
      USERNAME: GUEST_USER,
      READY_TOKEN: settings.readyToken,
      MAC: network.mac,
      ADDRESS: network.address ?? "",
      GATEWAY: network.gateway ?? "",
      DNS: "",
    })
      .map(([name, value]) => `${name}=${value}\n`)
      .join(""),
    authorized_keys: keys.map((key) => `${key}\n`).join(""),
  };
}

/** For images with cloud-init: the user with its keys, sshd on the virtio-serial ports, and the ready line. */
function vendorData(readyToken: string, keys: readonly string[]): unknown {
  const bridge = `#!/bin/sh
# Pipes a virtio-serial port to sshd; a write waits until the host connects, and SSH allows lines before its version.
mkdir -p /run/sshd
while :; do
  { printf 'hostler\\r\\n' >&3 && /usr/sbin/sshd -i <&3 >&3; } 3<>"/dev/virtio-ports/hostler.ssh.$1" || sleep 1
done
`;
  const unit = `[Unit]
Description=Hostler terminal port %i
[Service]
ExecStart=/usr/local/sbin/hostler-bridge %i
Restart=always
[Install]
WantedBy=multi-user.target
`;
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
      { path: "/usr/local/sbin/hostler-bridge", permissions: "0755", content: bridge },
      { path: "/etc/systemd/system/hostler-bridge@.service", permissions: "0644", content: unit },
    ],
    runcmd: [
      ["systemctl", "daemon-reload"],
      ["systemctl", "enable", "--now", ...ports],
      ["sh", "-c", `printf '\\nHOSTLER-READY %s\\n' ${readyToken} > /dev/ttyS0`],
    ],
  };
}
