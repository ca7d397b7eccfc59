// Opens pages of the site in Chromium and says what it saw, as JSON: node site.cjs PAGE... with playwright-core and axe-core installed here.
const fs = require("fs");
const { chromium } = require("playwright-core");

const LOOKS = [["light", "light", 1440], ["dark", "dark", 1440], ["phone", "light", 390]];
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

async function look(browser, file, [name, colorScheme, width]) {
  const context = await browser.newContext({ colorScheme, viewport: { width, height: 900 } });
  const page = await context.newPage();
  const seen = { look: name, errors: [], elsewhere: [] };
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("request", (request) => request.url().startsWith("file:") || seen.elsewhere.push(request.url()));
  await page.goto("file://" + file);
  seen.width = await page.evaluate(() => document.documentElement.scrollWidth);
  await page.screenshot({ path: file.replace(/\.html$/, `-${name}.png`) });
  await page.evaluate(fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
  const found = await page.evaluate(() => axe.run());
  seen.violations = found.violations.map((one) => `${one.id}: ${one.nodes[0].html}`);
  seen.rules = found.passes.length;
  await context.close();
  return seen;
}

(async () => {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS });
  const seen = {};
  for (const file of process.argv.slice(2)) {
    seen[file] = [];
    for (const one of LOOKS) seen[file].push(await look(browser, file, one));
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})();
