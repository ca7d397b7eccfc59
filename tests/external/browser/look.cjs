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

// First paint in milliseconds after the start of the navigation, as the browser's own clock has it.
const FIRST_PAINT = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null;

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
    seen.rows = await page.locator("table.verdicts tbody tr").count();
    await context.close();
    return seen;
  }
  await page.waitForFunction(FIRST_PAINT);
  seen.paint_ms = await page.evaluate(FIRST_PAINT);
  seen.width = await page.evaluate(() => document.documentElement.scrollWidth);
  seen.height = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.screenshot({ path: file.replace(/\.html$/, `-${name}.png`) });
  seen.keyboard = await keyboard(page);
  seen.linked = await linked(page);
  seen.sorted = await sorted(page);
  seen.printed = await printed(page);
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

// Keyboard use: skip to the verdicts, find one, open it if it has more to show.
async function keyboard(page) {
  await page.keyboard.press("Tab");
  const skip = await page.evaluate(() => document.activeElement.textContent);
  const name = await page.locator("#body tr").last().getAttribute("id");
  await page.focus("#find");
  await page.keyboard.type(name.split(".")[0]);
  await page.waitForFunction((id) => document.getElementById("body").rows.length < 25 && document.getElementById(id), name);
  const inside = page.locator(`[id="${name}"] summary`);
  const openable = await inside.count();
  if (openable) {
    await inside.focus();
    await page.keyboard.press("Enter");
  }
  const unfolded = await page.locator("#body details[open]").count();
  await page.fill("#find", "");
  return { skip, unfolded: unfolded === openable };
}

// A link to the last verdict shows it, whatever page of the table it is on.
async function linked(page) {
  const id = await page.evaluate(() => lines[lines.length - 1].match(/id="([^"]*)"/)[1]);
  await page.evaluate((name) => { location.hash = name; }, id);
  await page.waitForFunction((name) => document.getElementById(name)?.classList.contains("here"), id);
  return await page.evaluate((name) => {
    const box = document.getElementById(name).getBoundingClientRect();
    return box.top >= 0 && box.top < innerHeight;
  }, id);
}

// The verdicts sorted by finding, downwards and upwards.
async function sorted(page) {
  const button = page.locator("th button", { hasText: "finding" });
  const first = [];
  for (let i = 0; i < 2; i += 1) {
    await button.click();
    first.push(await page.locator("#body tr td:nth-child(2)").first().textContent());
  }
  return { first, state: await page.locator("th[aria-sort]").getAttribute("aria-sort") };
}

async function printed(page) {
  await page.emulateMedia({ media: "print" });
  const hidden = await page.evaluate(() => getComputedStyle(document.querySelector(".find")).display);
  await page.emulateMedia({ media: "screen" });
  return hidden;
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
