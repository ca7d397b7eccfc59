"""The site in a real browser, read from its folder: no error, nothing fetched, no axe violation, in light, dark and phone layout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PAGES = (
    "index",
    "tutorial/first-run",
    "how-to/diagnose-a-log",
    "reference/plugin",
    "reference/python",
    "explanation/house",
    "findings/claims",
    "results/vllm-0.33.0-1xh200/index",
)
"""One page of each kind: all pages share one template, and only their tables, code and headings differ."""


@pytest.fixture(scope="session")
def looked(tmp_path_factory):
    """What Chromium saw on each page, by page and look."""
    folder = tmp_path_factory.mktemp("site")
    config = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert 'site_dir = "site"' in config
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean"], cwd=ROOT, check=True, capture_output=True)
    shutil.copytree(ROOT / "site", folder / "site")
    shutil.copy(HERE / "site.cjs", folder)
    npm = ["npm", "install", "--silent", "--no-save", "playwright-core@1", "axe-core@4"]
    subprocess.run(npm, cwd=folder, check=True, capture_output=True)
    env = {**os.environ, "CHROMIUM": os.environ.get("CHROMIUM") or shutil.which("chromium") or ""}
    command = ["node", "site.cjs", *(str(folder / "site" / f"{page}.html") for page in PAGES)]
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return dict(zip(PAGES, json.loads(done.stdout).values(), strict=True))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_the_site_opens_and_fits(looked, page):
    assert [one["look"] for one in looked[page]] == ["light", "dark", "phone"]
    for one in looked[page]:
        assert (one["errors"], one["elsewhere"]) == ([], [])
        assert one["width"] <= (390 if one["look"] == "phone" else 1440)


@pytest.mark.parametrize("page", PAGES)
def test_axe_has_nothing_to_object_to_the_site(looked, page):
    for one in looked[page]:
        assert (one["look"], one["violations"]) == (one["look"], [])
        assert one["rules"] > 15
