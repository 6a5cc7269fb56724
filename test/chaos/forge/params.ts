import { machineArgv } from "@hostler/node-agent/drivers/qemu/machine-argv.ts";
import { seedFiles, type SeedSettings } from "@hostler/node-agent/drivers/slices/seed-files.ts";
import { slicePaths } from "@hostler/node-agent/drivers/slices/slice-paths.ts";
import { makeSpec } from "@hostler/node-agent/drivers/testing.ts";
import { sliceReferenceSchema, sliceSpecSchema, terminalSpecSchema, type SliceSpec } from "@hostler/shared/tasks.ts";
import type { Attack } from "./attack.ts";
import { hostileStrings } from "./hostile-strings.ts";

const PLACES = { stateDir: "/var/lib/hostler-agent", runDir: "/run/hostler-agent" };
const SETTINGS: SeedSettings = {
  readyToken: "0123456789abcdef",
  platformPublicKey: "ssh-ed25519 AAAAplatform",
  network: {
    ...{ mac: "52:54:00:00:00:01", address: null, gateway: null, resolvers: [] },
    ...{ address6: null, gateway6: null },
  },
};

/** Where a text may stand in a slice spec. */
const FIELDS: Readonly<Record<string, (spec: SliceSpec, text: string) => unknown>> = {
  allocationId: (spec, text) => ({ ...spec, allocationId: text }),
  driver: (spec, text) => ({ ...spec, driver: text }),
  hostName: (spec, text) => ({ ...spec, hostName: text }),
  "image.name": (spec, text) => ({ ...spec, image: { ...spec.image, name: text } }),
  "image.sha256": (spec, text) => ({ ...spec, image: { ...spec.image, sha256: text } }),
  "image.format": (spec, text) => ({ ...spec, image: { ...spec.image, format: text } }),
  gpuUuids: (spec, text) => ({ ...spec, gpuUuids: [text] }),
  sshPublicKeys: (spec, text) => ({ ...spec, sshPublicKeys: [text] }),
  "sshPublicKeys, as a comment": (spec, text) => ({ ...spec, sshPublicKeys: [`ssh-ed25519 AAAA ${text}`] }),
  userData: (spec, text) => ({ ...spec, userData: text }),
  "labels, as a key": (spec, text) => ({ ...spec, labels: Object.fromEntries([[text, "x"]]) }),
  "labels, as a value": (spec, text) => ({ ...spec, labels: { x: text } }),
};

/**
 * Hundreds of hostile strings in every field: the schema refuses them, or they reach no command line and stay one value in the
 * files that the guest reads. One class a field.
 */
export function paramAttacks(): Attack[] {
  const strings = hostileStrings();
  const spec = makeSpec({ sshPublicKeys: ["ssh-ed25519 AAAA"], userData: "#cloud-config\n", labels: { x: "y" } });
  const fields = Object.entries(FIELDS).map(([field, put]): Attack => ({
    name: `slice spec: ${strings.length} hostile strings in ${field}`,
    expects: ["no escape"],
    run: async () => {
      const escapes = strings.flatMap((text) =>
        escapesOf(spec, put(spec, text)).map((what) => `${what}: ${JSON.stringify(text)}`),
      );
      return await Promise.resolve(escapes[0] ?? "no escape");
    },
  }));
  return [...fields, referenceAttack(strings), unknownFieldsAttack(spec)];
}

/** What a hostile spec changed beyond its own value; empty when the schema refuses it. */
function escapesOf(good: SliceSpec, hostile: unknown): string[] {
  const parsed = sliceSpecSchema.safeParse(hostile);
  if (!parsed.success) return [];
  const spec = parsed.data;
  const escapes: string[] = [];
  const argv = commandOf(spec);
  // No text of a tenant stands in a command at all: it is the same as for the harmless spec.
  if (JSON.stringify(argv) !== JSON.stringify(commandOf(good))) escapes.push("the command line changed");
  const [files, harmless] = [seedFiles(spec, SETTINGS), seedFiles(good, SETTINGS)];
  if (files["user-data"] !== (spec.userData ?? "#cloud-config\n")) escapes.push("the user data is not as it was given");
  const meta = JSON.parse(files["meta-data"] ?? "") as Record<string, unknown>;
  if (meta["local-hostname"] !== spec.hostName || Object.keys(meta).length !== 2) escapes.push("the meta-data grew");
  const vendor = vendorOf(files);
  if (JSON.stringify(vendor.commands) !== JSON.stringify(vendorOf(harmless).commands))
    escapes.push("the first boot changed");
  const keys = [SETTINGS.platformPublicKey, ...spec.sshPublicKeys];
  if (JSON.stringify(vendor.keys) !== JSON.stringify(keys)) escapes.push("the keys are not the keys");
  if (linesOf(files["authorized_keys"]).length !== keys.length) escapes.push("authorized_keys has another line");
  if (variablesIn(files) !== variablesIn(harmless)) escapes.push("the environment has another variable");
  return escapes;
}

function commandOf(spec: SliceSpec): readonly string[] {
  return machineArgv(spec, slicePaths(PLACES, spec), { accelerator: "tcg", network: "user", fence: "1" });
}

function vendorOf(files: Readonly<Record<string, string>>): { readonly keys: unknown; readonly commands: unknown } {
  const text = (files["vendor-data"] ?? "").replace("#cloud-config\n", "");
  const { users, ...commands } = JSON.parse(text) as { readonly users: readonly unknown[] };
  const [, user] = users;
  return { keys: (user as { readonly ssh_authorized_keys: unknown }).ssh_authorized_keys, commands };
}

function linesOf(text = ""): string[] {
  // As the readers in guests split them, carriage returns and form feeds included.
  return text.split(/[\n\r\v\f\u0085\u2028\u2029]/).filter((line) => line !== "");
}

function variablesIn(files: Readonly<Record<string, string>>): string {
  return linesOf(files["hostler.env"])
    .map((line) => line.slice(0, line.indexOf("=")))
    .join(" ");
}

/** What a release and a terminal name. */
function referenceAttack(strings: readonly string[]): Attack {
  const reference = { allocationId: makeSpec().allocationId, generation: 1, driver: "qemu" };
  const terminal = { terminalId: "", slice: reference, epoch: 1, ticket: "x", cols: 80, rows: 24 };
  return {
    name: `references: ${strings.length} hostile strings as the id of a slice or a terminal`,
    expects: ["no escape"],
    run: async () => {
      const taken = strings.filter(
        (text) =>
          sliceReferenceSchema.safeParse({ ...reference, allocationId: text }).success ||
          sliceReferenceSchema.safeParse({ ...reference, driver: text }).success ||
          terminalSpecSchema.safeParse({ ...terminal, terminalId: text }).success,
      );
      return await Promise.resolve(taken[0] === undefined ? "no escape" : `taken: ${JSON.stringify(taken[0])}`);
    },
  };
}

function unknownFieldsAttack(spec: SliceSpec): Attack {
  return {
    name: "slice spec: fields that it does not have",
    expects: ["no escape"],
    run: async () => {
      const names = ["command", "mounts", "privileged", "__proto__", "constructor", "qemuArgs", "env"];
      const taken = names.filter(
        (name) => sliceSpecSchema.safeParse(JSON.parse(JSON.stringify(spec).replace("{", `{"${name}":"x",`))).success,
      );
      return await Promise.resolve(taken[0] === undefined ? "no escape" : `taken: ${taken[0]}`);
    },
  };
}
