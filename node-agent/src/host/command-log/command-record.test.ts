import { commandRecordSchema } from "@hostler/shared/command-records.ts";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import type { FinishedCommand } from "../../ports/command-log.ts";
import { recordOf } from "./command-record.ts";

function finished(overrides: Partial<FinishedCommand> = {}): FinishedCommand {
  const end = { end: "exited", exitCode: 0, signal: null, stdout: "", stderr: "" } as const;
  return { argv: ["true"], startedAt: new Date(0), durationMs: 1.4, ...end, ...overrides };
}

test("whatever a program is called with and says, its record may be told and shown", () => {
  const anything = fc.string({ unit: "binary", maxLength: 6000 });
  fc.assert(
    fc.property(fc.array(anything, { maxLength: 400 }), anything, (argv, text) => {
      const record = recordOf(finished({ argv, stdout: text, stderr: text.repeat(3) }));
      commandRecordSchema.parse(record);
      // oxlint-disable-next-line no-control-regex -- What must not be there.
      expect(JSON.stringify(record)).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
    }),
    { numRuns: 200 },
  );
});

test("control characters are written out, lines stay lines, and of a long output the beginning and the end are kept", () => {
  const { stdout } = recordOf(finished({ stdout: "\u001b[2Jone\r\ntwo\u0000\u202e\ud800" }));
  expect(stdout).toBe("\\x1b[2Jone\\x0d\ntwo\\x00\\u{202e}\\u{d800}");
  const long = recordOf(finished({ stdout: `begin${"x".repeat(100_000)}end` })).stdout;
  expect(long.startsWith("begin") && long.endsWith("end")).toBe(true);
  expect(long).toContain("of 100008 characters");
});

test("nothing that is named like a secret, and no private key, stands in a record", () => {
  const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----";
  const argv = [
    ...["tool", "--password", "hunter2", "--token=hunter2", "db_passphrase=hunter2,other=seen"],
    ...["secret,id=disk0,data=hunter2,format=raw", "virtio-blk,secret=hunter2", '{"api_key":"hunter2"}', key],
  ];
  const stderr = `Authorization: Bearer hunter2hunter2\nPASSWORD: hunter2\n${key}\nkey-secret=disk0 seen`;
  const text = JSON.stringify(recordOf(finished({ argv, stderr })));
  expect(text).not.toContain("hunter2");
  expect(text.match(/seen/g)).toHaveLength(2);
  const harmlessArgv = ["ip", "link", "add", "ht01", "type", "veth", "-o", "keep=yes", "secret,id=a,file=/x/y"];
  expect(recordOf(finished({ argv: harmlessArgv })).argv).toEqual(harmlessArgv);
});
