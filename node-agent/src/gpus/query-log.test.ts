import { isAppError } from "@hostler/shared/errors.ts";
import { expect, test } from "vitest";
import { judgeHealth } from "./health/judge-health.ts";
import { makeEvidence, UUID } from "./health/testing.ts";
import { parseCsvTable } from "./parse-csv-table.ts";
import { parseQueryText } from "./parse-query-text.ts";
import { parseQueryXml } from "./parse-query-xml.ts";
import { type QueryLog, readingOfLog } from "./query-log.ts";
import { readXml } from "./xml-reader.ts";

const textLog = (
  remap = "No",
  processes = "    Processes                             : None\n",
  attached = 1,
): string => `
==============NVSMI LOG==============

Timestamp                                 : Wed Sep 25 10:40:24 2030
Driver Version                            : 610.57.04 [Deprecated; use KMD Version]
CUDA Version                              : 13.3

Attached GPUs                             : ${attached}
GPU 00000000:86:00.0
    Product Name                          : NVIDIA A10
    MIG Mode
        Current                           : Enabled
        Pending                           : Enabled
    MIG Device
        Index                             : 0
        FB Memory Usage
            Total                         : 19968 MiB
    MIG Device
        Index                             : 1
        FB Memory Usage
            Total                         : 19968 MiB
    GPU UUID                              : ${UUID}
    GPU Reset Status
        Reset Required                    : No
    PCI
        GPU Link Info
            Link Width
                Max                       : 16x
                Current                   : 16x
    FB Memory Usage
        Total                             : 23028 MiB
    ECC Errors
        Volatile
            SRAM Uncorrectable            : N/A
            DRAM Uncorrectable            : 0
    Remapped Rows
        Pending                           : ${remap}
        Remapping Failure Occurred        : No
    Temperature
        GPU Current Temp                  : 33 C
${processes}`;

const xmlLog = (remap = "No", rest = ""): string => `<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>570.124.04</driver_version>
  <attached_gpus>1</attached_gpus>
  <gpu id="00000000:86:00.0">
    <product_name>NVIDIA A10</product_name>
    <uuid>${UUID}</uuid>
    <mig_devices><mig_device><index>0</index></mig_device></mig_devices>
    <gpu_reset_status><reset_required>Requested functionality has been deprecated</reset_required></gpu_reset_status>
    <pci><pci_gpu_link_info><link_widths>
      <max_link_width>16x</max_link_width><current_link_width>16x</current_link_width>
    </link_widths></pci_gpu_link_info></pci>
    <fb_memory_usage><total>23028 MiB</total></fb_memory_usage>
    <remapped_rows><remapped_row_pending>${remap}</remapped_row_pending></remapped_rows>
    <temperature><gpu_temp>33 C</gpu_temp></temperature>
    <processes>${rest}</processes>
  </gpu>
</nvidia_smi_log>
`;

function stateOf(parse: (text: string) => QueryLog, text: string): string {
  try {
    return judgeHealth(makeEvidence({ driver: readingOfLog(parse(text)) })).state;
  } catch (error) {
    if (isAppError(error)) return "refused";
    throw error;
  }
}

test("nvidia-smi -q gives driver, GPUs, MIG devices and the fields of the rules without their units", () => {
  const { driverVersion, attachedGpus, gpus } = parseQueryText(textLog());
  expect({ driverVersion, attachedGpus, count: gpus.length }).toEqual({
    driverVersion: "610.57.04",
    attachedGpus: 1,
    count: 1,
  });
  expect(gpus[0]).toMatchObject({
    migDevices: 2,
    processes: [],
    fields: {
      uuid: UUID,
      "pci.bus_id": "00000000:86:00.0",
      "memory.total": "23028",
      "pcie.link.width.current": "16",
      gpu_recovery_action: "None",
      "ecc.errors.uncorrected.volatile.total": "0",
    },
  });
});

test("nvidia-smi -q -x gives the same, and what is deprecated is not read", () => {
  const log = parseQueryXml(xmlLog());
  expect(log).toMatchObject({ driverVersion: "570.124.04", attachedGpus: 1, gpus: [{ migDevices: 1, processes: [] }] });
  expect(log.gpus[0]?.fields["gpu_recovery_action"]).toBeUndefined();
  expect(readingOfLog(log)).toMatchObject({ unknownFields: expect.arrayContaining(["gpu_recovery_action"]) });
});

test.each([
  ["-q", parseQueryText, textLog()],
  ["-q -x", parseQueryXml, xmlLog()],
])("a sound GPU is healthy by %s, with a fault or with a cut it is not", (_form, parse, text) => {
  expect(stateOf(parse, text)).toBe("healthy");
  const faulty = text.replace(/(Pending +: |<remapped_row_pending>)No/, "$1Yes");
  expect(stateOf(parse, faulty)).toBe("unhealthy");
  for (let length = 0; length < faulty.length; length += 1)
    expect(stateOf(parse, faulty.slice(0, length)), `cut to ${length}`).not.toBe("healthy");
});

test.each(["ERR!", "Unknown Error", "[Unknown Error]", "GPU is lost"])(
  "a GPU with %j in a field that no rule looks at is not healthy",
  (value) => {
    const text = textLog().replace(
      "    FB Memory Usage\n        Total",
      `    Fan Speed : ${value}\n    FB Memory Usage\n        Total`,
    );
    expect(stateOf(parseQueryText, text)).toBe("unhealthy");
    expect(
      stateOf(parseQueryXml, xmlLog().replace("<temperature>", `<fan_speed>${value}</fan_speed><temperature>`)),
    ).toBe("unhealthy");
  },
);

test("of several counts of one thing the worst one is judged", () => {
  const parity = textLog().replace("SRAM Uncorrectable            : N/A", "SRAM Uncorrectable Parity     : 3");
  expect(parseQueryText(parity).gpus[0]?.fields["ecc.errors.uncorrected.volatile.total"]).toBe("3");
  expect(stateOf(parseQueryText, parity)).toBe("unhealthy");
  const first = textLog().replace("SRAM Uncorrectable            : N/A", "SRAM Uncorrectable            : 0");
  expect(
    stateOf(parseQueryText, first.replace("DRAM Uncorrectable            : 0", "DRAM Uncorrectable            : 2")),
  ).toBe("unhealthy");
});

test("the programs on a GPU are read from both forms", () => {
  const text = `    Processes
        GPU instance ID                   : N/A
        Process ID                        : 4711
            Type                          : C
            Name                          : /usr/bin/python3 : x
            Used GPU Memory               : 111 MiB
    Capabilities
        EGM                               : disabled
`;
  expect(parseQueryText(textLog("No", text)).gpus[0]?.processes).toEqual([{ pid: 4711, name: "/usr/bin/python3 : x" }]);
  const xml = "<process_info><pid>4711</pid><process_name>a &amp; b</process_name></process_info>";
  expect(parseQueryXml(xmlLog("No", xml)).gpus[0]?.processes).toEqual([{ pid: 4711, name: "a & b" }]);
});

test.each([
  ["another count of GPUs than announced", textLog("No", undefined, 8), /announces 8 GPUs and shows 1/],
  ["no processes at the end", textLog("No", ""), /ends within GPU/],
  ["processes that are not listed", textLog("No", "    Processes\n"), /ends within the processes/],
  ["a word of none cut", textLog("No", "    Processes : Non\n"), /ends within the processes/],
  ["a field twice", textLog("No\n        Pending                           : No"), /Remapped Rows\/Pending twice/],
  ["the driver's words", "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.", /GPU is lost/],
  ["nothing", "", /it is empty/],
])("a log with %s is refused", (_what, text, words) => {
  expect(() => parseQueryText(text)).toThrow(words);
});

test("more GPUs announced than shown in a whole document are the judge's to refuse", () => {
  const log = parseQueryXml(xmlLog().replace("<attached_gpus>1", "<attached_gpus>4"));
  expect(judgeHealth(makeEvidence({ driver: readingOfLog(log) }))).toMatchObject({
    findings: [{ code: "gpus_not_shown" }],
  });
});

test.each([
  ["a definition", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'],
  ["an unknown entity", "<a>&x;</a>"],
  ["a number for a character", "<a>&#65;</a>"],
  ["a comment", "<a><!-- b --></a>"],
  ["a section", "<a><![CDATA[b]]></a>"],
  ["an instruction", "<a><?b c?></a>"],
  ["text beside elements", "<a>b<c/></a>"],
  ["a second root", "<a/><b/>"],
  ["text after the root", "<a/>b"],
  ["an end that is missing", "<a><b></b>"],
  ["ends that cross", "<a><b></a></b>"],
  ["an attribute twice", '<a b="1" b="2"/>'],
  ["a depth without end", `${"<a>".repeat(40)}${"</a>".repeat(40)}`],
  ["nothing", ""],
])("XML with %s is refused", (_what, text) => {
  expect(() => readXml(text)).toThrow(/XML cannot be read/);
});

test("elements, attributes, text and the five entities are read", () => {
  expect(readXml('<?xml version="1.0"?>\n<a b="&lt;1">\n <c> x &amp; y </c><c/>\n</a>\n')).toEqual({
    name: "a",
    attributes: { b: "<1" },
    text: "",
    children: [
      { name: "c", attributes: {}, text: "x & y", children: [] },
      { name: "c", attributes: {}, text: "", children: [] },
    ],
  });
});

test("a CSV table is read by its header without units, and a program's name may have commas", () => {
  expect(parseCsvTable("pid, process_name, used_gpu_memory [MiB]\n7, /a, b, 12 MiB\n")).toEqual({
    columns: ["pid", "process_name", "used_gpu_memory"],
    rows: [["7", "/a, b", "12 MiB"]],
  });
});

test.each([
  ["words", "No devices were found\n"],
  ["nothing", ""],
  ["a row too short", "index, name\n0\n"],
  ["a row too long", "index, name\n0, a, b\n"],
  ["a column twice", "index, index\n0, 0\n"],
])("a CSV table of %s is refused", (_what, text) => {
  expect(() => parseCsvTable(text)).toThrow(/something else than the table/);
});
