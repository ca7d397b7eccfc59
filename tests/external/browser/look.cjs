// Opens pages in Chromium and says what it saw, as JSON: node look.cjs PAGE... with playwright-core and axe-core installed here.
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const LOOKS = [
  ["light", "light", 1200],
  ["dark", "dark", 1200],
  ["phone", "light", 390],
];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const OPEN_ALL = () => document.querySelectorAll("details").forEach((one) => (one.open = true));

async function look(browser, file, [name, colorScheme, width], javaScriptEnabled) {
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 844 }, javaScriptEnabled });
  const page = await context.newPage();
  const seen = { look: name, console: [], requests: [] };
  page.on("console", (message) => seen.console.push(message.text()));
  page.on("pageerror", (error) => seen.console.push(String(error)));
  page.on("request", (request) => seen.requests.push(request.url()));
  const started = Date.now();
  await page.goto("file://" + file);
  seen.load_ms = Date.now() - started;
  if (!javaScriptEnabled) {
    seen.text = await page.innerText("body");
    await context.close();
    return seen;
  }
  seen.width = await page.evaluate(() => document.documentElement.scrollWidth);
  await page.screenshot({ path: file.replace(/\.html$/, `-${name}.png`), fullPage: true });
  seen.keyboard = await keyboard(page);
  if (fs.statSync(file).size < 1e6) { // the rules take minutes on ten thousand verdicts, which are all alike
    await page.evaluate(OPEN_ALL);
    await page.evaluate(fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
    const found = await page.evaluate(() => axe.run());
    seen.violations = found.violations.map((one) => `${one.id}: ${one.nodes[0].html}`);
    seen.rules = found.passes.length;
  }
  await context.close();
  return seen;
}

// Keyboard use: skip to the verdicts, filter them, open the first.
async function keyboard(page) {
  await page.keyboard.press("Tab");
  const skip = await page.evaluate(() => document.activeElement.textContent);
  const name = (await page.locator("details.f > summary").last().textContent()).match(/[A-Z]+-\d+/)[0];
  await page.focus("#find");
  await page.keyboard.type(name);
  const shown = await page.locator("details.f:visible").count();
  await page.focus("details.f:not([hidden]) > summary");
  await page.keyboard.press("Enter");
  const unfolded = await page.locator("details.f[open]").count();
  return { skip, shown, unfolded };
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS });
  const seen = {};
  for (const file of process.argv.slice(2)) {
    seen[path.basename(file)] = [];
    for (const one of LOOKS) seen[path.basename(file)].push(await look(browser, file, one, true));
    seen[path.basename(file)].push(await look(browser, file, ["script-free", "light", 1200], false));
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})();
