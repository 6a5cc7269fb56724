import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { chromium, type Browser, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findProgram } from "../support/find-program.ts";
import { importGuestImage } from "../support/guest-image.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";

/** The page as a person uses it: real control plane, real agent, real machine, real browser. */
const BROWSER_FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
];
const SCREENSHOTS = join(import.meta.dirname, "../../.cache/screenshots");

let cloud: TestCloud;
let browser: Browser;
let page: Page;
const violations: string[] = [];

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--simulate-gpus", "h100x8"] });
  await importGuestImage(cloud.operator);
  browser = await chromium.launch({
    executablePath: (await findProgram("chromium")) ?? "chromium",
    args: BROWSER_FLAGS,
  });
  page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  page.on("console", (message) => {
    if (message.type() === "error") violations.push(message.text());
  });
  page.on("pageerror", (error) => violations.push(String(error)));
  await mkdir(SCREENSHOTS, { recursive: true });
});
afterAll(async () => {
  await browser?.close();
  await cloud?.close();
});

test("a person signs in, builds a slice, works in its terminal and gives it back", { timeout: 120_000 }, async () => {
  await page.goto(cloud.url);
  await page.fill("input[name=apiKey]", "hst_000000000000_wrongwrongwrongwrongwrongwrongwrongwrongwro");
  await page.click("button[type=submit]");
  await page.getByRole("alert").waitFor();
  await page.fill("input[name=apiKey]", cloud.apiKey);
  await page.click("button[type=submit]");

  await page.getByRole("link", { name: "Hosts" }).click();
  await page.locator(".slot.available").nth(7).waitFor();
  await page.getByText("simulated GPUs").waitFor();
  await page.screenshot({ path: join(SCREENSHOTS, "hosts.png") });

  await page.getByRole("link", { name: "Slices" }).click();
  await page.fill("input[name=name]", "from-the-page");
  await page.getByRole("button", { name: "Create" }).click();
  await page.locator("tr[data-phase=image]").waitFor();
  await page.locator("tr[data-phase=start].done").waitFor({ timeout: 60_000 });
  await page.screenshot({ path: join(SCREENSHOTS, "phases.png") });
  await page.locator(".badge", { hasText: "active" }).waitFor({ timeout: 60_000 });

  await page.getByRole("button", { name: "Open terminal" }).click();
  await page.locator("[data-terminal-status]", { hasText: "connected" }).waitFor();
  const screen = page.locator(".xterm-rows");
  await expect.poll(async () => await screen.innerText(), { timeout: 20_000 }).toMatch(/\$/);
  await page.keyboard.type("echo typed-$((40 + 2)) on $(hostname)\n");
  await expect.poll(async () => await screen.innerText(), { timeout: 20_000 }).toContain("typed-42 on from-the-page");
  await page.screenshot({ path: join(SCREENSHOTS, "terminal.png") });
  await page.keyboard.type("exit 5\n");
  await page.locator("[data-terminal-status]", { hasText: "exit code 5" }).waitFor();

  await page.getByRole("button", { name: "Release" }).click();
  await page.locator(".badge", { hasText: "released" }).waitFor({ timeout: 60_000 });
  await page.locator("tr[data-receipt=verified]").waitFor();
  await page.screenshot({ path: join(SCREENSHOTS, "released.png") });

  await page.getByRole("link", { name: "Hosts" }).click();
  await page.getByRole("button", { name: "Receipts and tasks" }).click();
  await page.locator("tr[data-receipt=verified]").waitFor();
  await page.getByText("Nothing in hand, and nothing failed here.").waitFor();
  await page.screenshot({ path: join(SCREENSHOTS, "receipts.png") });

  await page.getByRole("link", { name: "Operations" }).click();
  await page.locator("tr[data-operation='allocation.release'] .badge", { hasText: "succeeded" }).waitFor();
  await page.locator("tr[data-operation='storage.partitions']").waitFor();
  await page.screenshot({ path: join(SCREENSHOTS, "operations.png") });
});

test("the page broke no rule of its content security policy and logged no error of its own", () => {
  // The refused sign-in is the one failed request.
  expect(violations.filter((text) => !text.includes("401"))).toEqual([]);
});
