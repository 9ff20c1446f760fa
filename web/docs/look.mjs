// Looks at the page of a running server in Chromium, as a person would:
//   node look.mjs URL TITLE SCREENSHOT
// TITLE is the summary of an operation that must be readable. Fails on anything that the browser complains of.
import { chromium } from "playwright-core";

const [url, title, screenshot] = process.argv.slice(2);
const arguments_ = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
if (process.getuid() === 0) {
  arguments_.push("--no-sandbox");
}
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: arguments_ });
const complaints = [];
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") {
      complaints.push(`${message.type()}: ${message.text()}`);
    }
  });
  page.on("pageerror", (error) => complaints.push(`page: ${error}`));
  page.on("requestfailed", (request) => complaints.push(`failed: ${request.url()}`));
  page.on("request", (request) => {
    const isOwn = request.url().startsWith("data:") || new URL(request.url()).origin === new URL(url).origin;
    if (!isOwn) {
      complaints.push(`asks another server: ${request.url()}`);
    }
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      window.violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  await page.goto(`${url}/docs`);
  // Operations lie in sections that are closed at first.
  const section = page.locator(".opblock-tag-section", { has: page.locator(".opblock-tag") });
  await section.first().waitFor({ timeout: 60_000 });
  const closed = page.locator(".opblock-tag-section:not(.is-open) .opblock-tag");
  while ((await closed.count()) > 0) {
    await closed.first().click();
  }
  const operation = page.locator(".opblock", { has: page.getByText(title, { exact: true }) }).first();
  await operation.waitFor({ timeout: 60_000 });
  await operation.locator(".opblock-summary-control").click();
  await operation.locator(".responses-table").first().waitFor({ timeout: 60_000 });
  await operation.scrollIntoViewIfNeeded();
  await page.screenshot({ path: screenshot });
  complaints.push(...(await page.evaluate(() => window.violations)).map((violation) => `policy: ${violation}`));
  console.log(await operation.locator(".opblock-summary").innerText());
} finally {
  await browser.close();
}
if (complaints.length > 0) {
  console.error(complaints.join("\n"));
  process.exit(1);
}
