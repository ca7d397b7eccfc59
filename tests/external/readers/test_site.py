"""The site built by Zensical: no broken link, and no resource loaded from another host."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FETCHED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
IMPORTED = re.compile(r"""(?:url\(|@import\s+(?:url\()?)\s*["']?((?:https?:)?//[^"')\s]+)""")


@pytest.fixture(scope="module")
def site():
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "site"


def test_every_page_is_there_and_fetches_nothing(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for pattern, paths in ((FETCHED, pages), (IMPORTED, [*pages, *site.rglob("*.css")])):
        assert {path: found for path in paths if (found := pattern.findall(path.read_text(encoding="utf-8")))} == {}


def test_fragments_are_no_pages(site):
    assert not (site / "changelog").exists()
