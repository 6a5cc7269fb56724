import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Suite } from "../support/suite.ts";
import { measureCertificates } from "./pki/certificates.ts";
import { measureListeners } from "./pki/listeners.ts";
import { measureTasks } from "./pki/tasks.ts";

const ROOT = join(import.meta.dirname, "../..");

/** What identity costs: certificates, enrolments, handshakes, signed tasks, beside what else one could use. */
export const pkiSuite: Suite = {
  about: "certificates, enrolments, handshakes and signed tasks, and the peers of each",
  run: async ({ say }) => {
    const certificates = await measureCertificates();
    say(`certificates: ${JSON.stringify(certificates)}`);
    const tasks = await measureTasks();
    say(`tasks: ${JSON.stringify(tasks)}`);
    const listeners = await measureListeners();
    const [forge, peculiar, jose] = await Promise.all(["node-forge", "@peculiar/x509", "jose"].map(versioned));
    return {
      figures: {
        certificates_per_s: certificates.ours,
        certificates_ratio_to_node_forge: ratio(certificates.ours, certificates.forge),
        certificates_ratio_to_peculiar_x509: ratio(certificates.ours, certificates.peculiar),
        ...listeners,
        task_sign_us: tasks.sign.median,
        task_sign_p99_us: tasks.sign.p99,
        task_verify_us: tasks.verify.median,
        task_verify_p99_us: tasks.verify.p99,
        task_sign_speed_ratio_to_rs256: ratio(tasks.peerSign.median, tasks.sign.median),
        task_verify_speed_ratio_to_rs256: ratio(tasks.peerVerify.median, tasks.verify.median),
      },
      targets: [{ figure: "task_verify_us", atMost: 500 }],
      peers: {
        [`${forge}, RSA-2048`]: { certificates_per_s: certificates.forge },
        [`${peculiar}, P-256`]: { certificates_per_s: certificates.peculiar },
        // Its verification ends at the signature; ours goes on to the fields, the audience, the key and the digest.
        [`${jose}, RS256`]: {
          sign_us: tasks.peerSign.median,
          sign_p99_us: tasks.peerSign.p99,
          verify_us: tasks.peerVerify.median,
          verify_p99_us: tasks.peerVerify.p99,
        },
      },
    };
  },
};

async function versioned(name: string): Promise<string> {
  const manifest = JSON.parse(await readFile(join(ROOT, "node_modules", name, "package.json"), "utf8")) as {
    readonly version: string;
  };
  return `${name} ${manifest.version}`;
}

function ratio(numerator: number, denominator: number): number {
  return Math.round((numerator / denominator) * 10) / 10;
}
