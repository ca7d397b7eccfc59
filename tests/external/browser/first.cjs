// Says which text stands wholly in the first screen of each page, as JSON: node first.cjs PAGE...
const path = require("path");
const { chromium } = require("playwright-core");

const SCREENS = [["wide", 1440, 900], ["phone", 390, 844]];
const READ = () => [...document.querySelectorAll("h1, h3, dt, dd, p, pre")]
  .filter((one) => { const box = one.getBoundingClientRect(); return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight; })
  .map((one) => one.innerText.replace(/\s+/g, " ")).join("\n");

(async () => {
  const flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: flags });
  const seen = {};
  for (const file of process.argv.slice(2)) {
    seen[path.basename(file, ".html")] = {};
    for (const [name, width, height] of SCREENS) {
      const page = await browser.newPage({ viewport: { width, height } });
      await page.goto("file://" + file);
      seen[path.basename(file, ".html")][name] = await page.evaluate(READ);
      await page.close();
    }
  }
  await browser.close();
  console.log(JSON.stringify(seen));
})();
