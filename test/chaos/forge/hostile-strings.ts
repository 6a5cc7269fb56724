import { makeRandom } from "../../support/suite.ts";

/** What has broken programs before: paths, shells, option lists, YAML, line protocols, encodings. */
const SEEDS: readonly string[] = [
  ..."../../../etc/passwd|..%2f..%2fetc%2fpasswd|....//....//etc/shadow|/etc/passwd|\\..\\..\\windows|~root/.ssh|file:///etc/passwd|./.|..|.|/".split(
    "|",
  ),
  ..."$(touch /tmp/owned)§`touch /tmp/owned`§;touch /tmp/owned§|touch /tmp/owned§&& touch /tmp/owned§& touch /tmp/owned§>/tmp/owned§</etc/passwd§${IFS}touch${IFS}x§$((1+1))§$HOME§'§\"§'\"'\"'§\\§*§?§[a-z]§{a,b}§!x§#§%s%n%x".split(
    "§",
  ),
  ..."-rf|--help|-device vfio-pci|-o ProxyCommand=touch|--|-|-e|-c|--config=/etc/passwd|-netdev user,hostfwd=tcp::22-:22".split(
    "|",
  ),
  ...'a,b|a,,b|id=x,file=/etc/passwd|,format=raw|,readonly=off|,hostfwd=tcp::2222-:22|json:{"driver":"file"}|nbd:localhost:1|ssh://root@x/|fat:/etc|rbd:x'.split(
    "|",
  ),
  "a: b",
  "- a",
  "? a",
  "!!python/object/apply:os.system ['id']",
  "&a *a",
  "{{ 7*7 }}",
  "<%= 7*7 %>",
  "${7*7}",
  "#{7*7}",
  "%YAML 1.1",
  "---",
  "...",
  "| ",
  "> ",
  "\u0085runcmd: [id]",
  "\u2028runcmd: [id]",
  "x\nruncmd:\n - id",
  "x\r\nREADY_TOKEN=1",
  "x\n\n[Service]\nExecStart=/bin/sh",
  "x\nssh-ed25519 AAAAevil",
  'command="id" ssh-ed25519 AAAA',
  'no-pty,command="id"',
  "ssh-ed25519 AAAA\nssh-ed25519 BBBB",
  "ssh-ed25519 AAAA comment\u0000",
  "ssh-ed25519 AAAA\u000bx",
  "ssh-dss AAAA",
  "\u0000",
  "a\u0000b",
  "\u0007",
  "\u001b[2J",
  "\u001b]0;x\u0007",
  "\u007f",
  "\ud800",
  "\udfff\ud800",
  "\ufeff",
  "\u200b",
  "\u202e",
  "\ufffd",
  "ｈｏｓｔ",
  "ⅸ",
  "İ",
  "ß",
  "ﬀ",
  "🙂",
  "é",
  "e\u0301",
  "А",
  " ",
  "  ",
  "\t",
  "\n",
  "\r",
  "",
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "null",
  "undefined",
  "true",
  "NaN",
  "Infinity",
  "-0",
  "1e309",
  "0x10",
  "010",
  "' or 1=1 --",
  "'; drop table nodes; --",
  "\\'; --",
  "<script>alert(1)</script>",
  "javascript:alert(1)",
  "<!--",
  "]]>",
  "&lt;",
  "alc_../../x",
  "alc_00000000-0000-7000-8000-000000000000/../..",
  "alc_00000000-0000-7000-8000-000000000000\n",
  "ALC_00000000-0000-7000-8000-000000000000",
  "0".repeat(63) + "g",
  "0".repeat(65),
  `${"0".repeat(64)}\n`,
  "qcow2\n",
  "raw ",
  "qemu\u0000",
  "mock,qemu",
  "a".repeat(64),
  "a".repeat(70_000),
  "-a",
  "a-",
  "a.b",
  "a_b",
  "A",
];

/** What the programs that a host runs read as syntax: QEMU, qemu-img, nft, ip, nspawn, genisoimage, systemd, cloud-init, terminals. */
const HOST_SEEDS: readonly string[] = [
  ...",script=/bin/true|,downscript=x|if=none,file=/etc/shadow|file.filename=/etc/passwd|,backing_file=/etc/passwd,backing_fmt=raw|-incoming exec:id|-monitor stdio|-chardev pipe,id=a,path=/etc/passwd|-fw_cfg name=x,file=/etc/shadow|-object secret,id=a,file=/etc/shadow|guest=a,debug-threads=on|,,script=x|json:{}|exec:id|unix:/run/x.sock|host_device:/dev/sda".split(
    "|",
  ),
  ...'"; flush ruleset; "|} ; flush ruleset ; table inet x {|accept comment "x"|include "/etc/passwd"|0.0.0.0/0|::/0|elements = { 0.0.0.0/0 }|iifname "*" accept|jump x|@set|$var|define x = 1|add rule inet x y accept'.split(
    "|",
  ),
  ..."-n x|-batch /etc/passwd|-force|netns exec x id|dev eth0 up|type bond|alias x|; ip link del lo|name lo|vf 0 mac|lo|all|default".split(
    "|",
  ),
  ..."--bind=/:/mnt|--capability=all|--private-users=no|--property=ExecStart=id|--network-veth-extra=a:b|--setenv=LD_PRELOAD=/x.so|--machine=x|:|a:b:rbind|a\\:b|%i|%h|%%|@|\\x2d|%n.service|hostler.slice".split(
    "|",
  ),
  ..."-graft-points|/etc=/etc|a=b|-eltorito-boot|@/etc/passwd|-path-list|a//b|cidata".split("|"),
  ..."#cloud-config\nruncmd: [id]|#!/bin/sh\nid|#include http://x/|## template: jinja\n{{ ds }}|#cloud-boothook|Content-Type: multipart/mixed; boundary=x|#part-handler|local-hostname: x|instance-id: x"
    .replaceAll("\\n", "\n")
    .split("|"),
  ..."LD_PRELOAD=/x.so|PATH=.|IFS=x|HOSTLER_SUPERVISED=x|\u001bP+q\u001b\\|\u001b[6n|\u009b31m|\u009d0;x\u009c|\u061c|\u2066x\u2069|\u{e0041}|a\u0300\u0301\u0302|\u{1f468}\u200d\u{1f469}".split(
    "|",
  ),
  "a".repeat(65_536),
  "é".repeat(30_000),
  "\n".repeat(1000),
  "../".repeat(1000),
];

const CORPUS = 600;
const GLUE = ["", "a", "a-", " ", ",", "/", ".", "=", "\n", ";"];

/** The seeds, and seeds glued to one another until there are six hundred. The same at every call. */
export function hostileStrings(): readonly string[] {
  const random = makeRandom(7);
  const pick = (list: readonly string[]): string => list[Math.floor(random() * list.length)] ?? "";
  const seeds = [...SEEDS, ...HOST_SEEDS];
  const strings = new Set(seeds);
  while (strings.size < CORPUS) strings.add(pick(GLUE) + pick(seeds) + pick(GLUE) + pick(seeds));
  return [...strings];
}
