"""
The report in a real browser: no error, no request and no axe violation, in light, dark and phone layout.

Needs Chromium, Node.js and the npm registry (``apt-get install chromium nodejs npm``), so it is not part of a bare ``pytest``:
``pytest tests/external/browser --basetemp=looked`` keeps the pages and their screenshots.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_longctx import read_results
from pytest_longctx.reports import html
from tests.unit.factories import booted, results, verdict

HERE = Path(__file__).parent
REAL = HERE.parents[2] / "docs/results"
PACKAGES = ("playwright-core@1", "axe-core@4")
LOOKS = ("light", "dark", "phone", "script-free")


def full():
    """A run with every panel. No committed run has all of them."""
    lengths = [(1_000, 0.1), (10_000, 1.1), (100_000, 13.0)]
    rows = [
        {
            **verdict(f"LC-000{i}", ttft_s=t, prompt_tokens=n, peak_share=0.5, prefill_tokens_per_s=n / t),
            "bounds": {"ttft_s": {"reference": t * 1.1}},
        }
        for i, (n, t) in enumerate(lengths)
    ]
    terms = [
        {"name": "weights", "size_bytes": 3e10, "host": False},
        {"name": "KV pool", "size_bytes": 9e10, "host": False},
    ]
    predicted = {"concurrency": 2.1, "longest_tokens": 200_000, "terms": terms}
    boots = [
        booted(started_s=100.0, seconds=60.0, figures={"concurrency": 2.0, "weights_gib": 28.0}, predicted=predicted),
        booted(
            "small", started_s=260.0, outcome="refuses", signature="kv-cache-too-small", explained="small\n  try  more"
        ),
    ]
    requests = [{"deployment": "tiny", "started_s": 170.0 + 20 * i, "ended_s": 180.0 + 20 * i} for i in range(4)]
    vitals = [
        {"deployment": "tiny", "at_s": 100.0 + i, "figures": {"running": i % 7, "kv_usage": i / 300}}
        for i in range(300)
    ]
    depths, lengths_read = (0.0, 0.25, 0.5, 0.75, 1.0), (1_000, 32_000, 1_000_000)
    found = [
        {"deployment": "tiny", "depth": d, "prompt_tokens": n, "score": 1 - d * n / 1e6}
        for d in depths
        for n in lengths_read
    ]
    broken = {**verdict("LC-0009", word="broken", ttft_s=9.0), "why": "ttft_s: 9 s, wanted <= 3 s"}
    words = [verdict(f"XX-000{i}", word=word) for i, word in enumerate(("unmeasured", "known", "out of scope"))]
    return results(*rows, broken, *words, boots=boots, requests=requests, vitals=vitals, retrievals=found)


def many():
    """Ten thousand verdicts, one in ten of them broken."""
    figures = dict.fromkeys(("e2e_s", "tpot_s", "itl_p50_s", "decode_tokens_per_s", "prefill_tokens_per_s"), 1.23456789)
    return results(
        *(
            {
                **verdict(
                    f"LC-{i // 4:04}",
                    f"deployment-{i % 20}",
                    "holds" if i % 10 else "broken",
                    ttft_s=i,
                    prompt_tokens=i + 1,
                    **figures,
                ),
                "why": "" if i % 10 else f"ttft_s: {i} s, wanted <= 3 s",
            }
            for i in range(1, 10_001)
        )
    )


@pytest.fixture(scope="session")
def looked(tmp_path_factory):
    """Results of Chromium for each page, by page name."""
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None or shutil.which("npm") is None:
        pytest.fail("no Chromium or no npm: apt-get install chromium nodejs npm; or name the browser in CHROMIUM")
    folder = tmp_path_factory.mktemp("browser")
    shutil.copy(HERE / "look.cjs", folder)
    subprocess.run(["npm", "install", "--silent", "--no-save", *PACKAGES], cwd=folder, check=True, capture_output=True)
    runs = {path.parent.name: read_results(path) for path in REAL.rglob("results.jsonl")} | {
        "full": full(),
        "many": many(),
    }
    pages = [folder / f"{name}.html" for name in runs]
    for page, run in zip(pages, runs.values(), strict=True):
        html.write(run, page)
    command = ["node", "look.cjs", *map(str, pages)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "CHROMIUM": browser}, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


PAGES = [f"{path.parent.name}.html" for path in sorted(REAL.rglob("results.jsonl"))] + ["full.html", "many.html"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_a_sound_and_fits(looked, page):
    assert [one["look"] for one in looked[page]] == list(LOOKS)
    for one in looked[page]:
        assert one["console"] == []
        assert len(one["requests"]) == 1  # the page itself
        assert one.get("width", 0) <= (390 if one["look"] == "phone" else 1200)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "many.html"])
def test_axe_has_nothing_to_object(looked, page):
    for one in looked[page][:3]:
        assert one["violations"] == []
        assert one["rules"] > 15


def test_ten_thousand_verdicts_are_one_page_of_the_table(looked):
    for one in looked["many.html"][:3]:
        assert one["height"] < 30_000


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_used_by_keyboard_and_by_links(looked, page):
    for one in looked[page][:3]:
        assert one["keyboard"] == {"skip": "Skip to the verdicts", "unfolded": True}
        assert one["linked"]
        first, last = one["sorted"]["first"]
        assert first <= last
        assert one["sorted"]["state"] == "descending"
        assert one["printed"] == "none"


def test_the_page_reads_without_javascript(looked):
    (alone,) = looked["full.html"][3:]
    assert "LC-0009" in alone["text"]
    assert "Find\n" not in alone["text"]
    assert alone["rows"] == len(full().verdicts)
    assert looked["many.html"][3]["rows"] == 10_000
