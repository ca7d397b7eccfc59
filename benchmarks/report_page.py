"""
The report of ten thousand verdicts: its size, the time to make it, and the time to its first paint in a real browser.

Run ``.ci/browser`` once, then ``PYTHONPATH=. python benchmarks/report_page.py`` in the checkout. It exits 1 if the page is larger
than 3 MB, or if its first paint takes 1.5 s or more in the median of five.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from pytest_longctx.reports import html
from tests.external.browser.test_page import many

MOST_BYTES = 3_000_000
MOST_PAINT_S = 1.5
OPEN = """
const { chromium } = require("playwright-core");
(async () => {
  const flags = ["--no-sandbox", "--disable-gpu"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: flags });
  const found = [];
  for (let i = 0; i < 6; i += 1) {
    const page = await browser.newPage();
    await page.goto("file://" + process.argv[2]);
    const paint = () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? null;
    await page.waitForFunction(paint);
    found.push(await page.evaluate(paint));
    await page.close();
  }
  await browser.close();
  console.log(JSON.stringify(found.slice(1)));
})();
"""


def main() -> int:
    """Print the figures and return the exit code."""
    run, started_s = many(), time.perf_counter()
    text = html.page(run)
    made_s = time.perf_counter() - started_s
    with tempfile.TemporaryDirectory() as folder:
        page, script = Path(folder, "many.html"), Path(folder, "open.cjs")
        page.write_text(text, encoding="utf-8")
        script.write_text(OPEN, encoding="utf-8")
        npm = ("npm", "install", "--silent", "--no-save", "playwright-core@1")
        subprocess.run(npm, cwd=folder, check=True, capture_output=True)
        env = {**os.environ, "CHROMIUM": os.environ.get("CHROMIUM") or shutil.which("chromium") or ""}
        done = subprocess.run(("node", script, page), cwd=folder, env=env, check=True, capture_output=True)
    paints_s = [ms / 1000 for ms in json.loads(done.stdout)]
    size = len(text.encode())
    load = os.getloadavg()[0]
    print(
        f"{len(run.verdicts):,} verdicts: {size:,} bytes, made in {made_s:.2f} s; load {load:.1f} on {os.cpu_count()} cores"
    )
    print(f"first paint: median {median(paints_s):.2f} s of {', '.join(f'{paint:.2f}' for paint in sorted(paints_s))}")
    return 0 if size < MOST_BYTES and median(paints_s) < MOST_PAINT_S else 1


if __name__ == "__main__":
    sys.exit(main())
