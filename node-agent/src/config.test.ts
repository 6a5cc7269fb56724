import { expect, test } from "vitest";
import { readRunConfig } from "./config.ts";

const policyOf = (...args: readonly string[]) => readRunConfig(args, {}).networkPolicy;

test("what slices get of the network is as given, or the default", () => {
  const portRange = { first: 30_000, last: 32_767 };
  expect(policyOf()).toEqual({ portRange, portAddress: null, ipv6Prefix: null, bandwidthMbitPerSecond: null });
  const given = ["--port-range=2000-2000", "--port-address=2001:db8::1", "--ipv6-prefix=FD12::/64"];
  expect(policyOf(...given, "--slice-bandwidth=1000")).toEqual({
    portRange: { first: 2000, last: 2000 },
    portAddress: "2001:db8::1",
    ipv6Prefix: expect.objectContaining({ text: "fd12::/64" }),
    bandwidthMbitPerSecond: 1000,
  });
});

test.each([
  ["port-range", "30000"],
  ["port-range", "80-90"],
  ["port-range", "32767-30000"],
  ["port-range", "30000-70000"],
  ["port-address", "a b"],
  ["port-address", "-x"],
  ["ipv6-prefix", "fd12::1/64"],
  ["ipv6-prefix", "10.0.0.0/16"],
  ["slice-bandwidth", "0"],
  ["slice-bandwidth", "1.5"],
  ["slice-bandwidth", "10mbit"],
])("--%s %s is refused by name", (flag, text) => {
  expect(() => policyOf(`--${flag}=${text}`)).toThrow(`--${flag} ${text}: expected`);
});

test("disks are files unless a thin pool is named", () => {
  expect(readRunConfig([], {}).thinPool).toBeNull();
  expect(readRunConfig(["--disks", "files"], {}).thinPool).toBeNull();
  expect(readRunConfig(["--disks", "lvm:vg0/slices"], {}).thinPool).toEqual({ group: "vg0", pool: "slices" });
  for (const text of ["vg0/slices", "lvm:vg0", "zfs:tank", "lvm:a/b/c"])
    expect(() => readRunConfig(["--disks", text], {}), text).toThrow(`--disks ${text}: expected`);
});

test("disks are plain and images have a quarter of their disk unless something else is asked for", () => {
  expect(readRunConfig([], {})).toMatchObject({ encryptDisks: false, imageBudgetBytes: null });
  const asked = readRunConfig(["--encrypt-disks", "--image-cache-gib", "1.5"], {});
  expect(asked).toMatchObject({ encryptDisks: true, imageBudgetBytes: 1.5 * 1024 ** 3 });
});

test("whoever asks for encryption is not given a driver that has none", () => {
  expect(() => readRunConfig(["--encrypt-disks", "--drivers", "qemu,container"], {})).toThrow(
    expect.objectContaining({ detail: expect.stringContaining("containers are not encrypted") }),
  );
});

test("a budget that is no number of GiB is refused", () => {
  for (const text of ["0", "-1", "1e3", "ten", ""])
    expect(() => readRunConfig([`--image-cache-gib=${text}`], {})).toThrow(
      expect.objectContaining({ detail: expect.stringContaining("number of GiB") }),
    );
});

test("a host is rented out whole only where both flags say so", () => {
  expect(readRunConfig([], {}).rentHost).toBeNull();
  expect(readRunConfig(["--drivers", "qemu,host", "--rent-host", "user"], {}).rentHost).toBe("user");
  for (const args of [
    ["--drivers", "host"],
    ["--rent-host", "root"],
    ["--drivers", "host", "--rent-host", "all"],
  ])
    expect(() => readRunConfig(args, {})).toThrow(
      expect.objectContaining({ detail: expect.stringContaining("--rent-host") }),
    );
});
