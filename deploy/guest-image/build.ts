import { parseArgs } from "node:util";
import { buildGuestImage } from "./build-guest-image.ts";

const HELP = `node deploy/guest-image/build.ts --output DIR [--cache DIR]
  Builds hostler-guest.qcow2 and hostler-guest.json from Debian packages. Does nothing when they are up to date.`;

const { values } = parseArgs({
  options: { output: { type: "string" }, cache: { type: "string" }, help: { type: "boolean" } },
});
if (values.help === true || values.output === undefined) {
  process.stderr.write(`${HELP}\n`);
  process.exitCode = values.help === true ? 0 : 2;
} else {
  const image = await buildGuestImage({
    outputDir: values.output,
    cacheDir: values.cache ?? `${values.output}/.packages`,
    onProgress: (line) => process.stderr.write(`guest image: ${line}\n`),
  });
  process.stdout.write(`${JSON.stringify(image.manifest, null, 2)}\n`);
}
