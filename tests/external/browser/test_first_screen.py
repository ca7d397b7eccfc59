"""
A reader of a broken run finds the cause and the next command in the first screen, for five unlike faults.

Each run is the suites on a miniature with one fault. On a phone the first screen has the cause, and the command is below it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_longctx import paths, read_results
from pytest_longctx.reports import html
from tests.conftest import FAULTY

HERE = Path(__file__).parent
MUST_FIND = {
    "truncates-prompt": (
        "counts other prompt tokens than were sent (750 tokens, allowed exactly 1,000 tokens)",
        "truncated",
    ),
    "runs-out-of-memory": ("does not boot: it runs out of memory (gpu-out-of-memory)", "Tried to allocate 4.00 GiB"),
    "engine-dies": ("dies under a request", "its engine is dead"),
    "claims-too-much": ("refuses a length that it should serve", "maximum context length is 32768 tokens"),
    "late-first-token": ("misses a bound of its speed (ttft_s 4.", "repeat the run on an idle machine"),
}
"""The cause in the first sentence, and what else a reader needs beside the command, by fault."""


@pytest.fixture(scope="session")
def screens(tmp_path_factory):
    """The text of the first screen of each broken run, by fault and by screen."""
    folder = tmp_path_factory.mktemp("first")
    pages = [_page(folder, fault) for fault in MUST_FIND]
    shutil.copy(HERE / "first.cjs", folder)
    npm = ["npm", "install", "--silent", "--no-save", "playwright-core@1"]
    subprocess.run(npm, cwd=folder, check=True, capture_output=True)
    env = {**os.environ, "CHROMIUM": os.environ.get("CHROMIUM") or shutil.which("chromium") or ""}
    command = ["node", "first.cjs", *map(str, pages)]
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def _page(folder, fault):
    text = FAULTY.format(fault=fault, boot_s=60, answer_s=60, stall_s=60)
    text = text.replace("[flags]", "[flags]\nlate-s = 4") if fault == "late-first-token" else text
    (folder / f"{fault}.toml").write_text(text, encoding="utf-8")
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            str(paths.suites()),
            "-c",
            os.devnull,
            "--rootdir=.",
            "-p",
            "no:cacheprovider",
        ),
        *("--backend=miniature", f"--longctx-deployment={fault}.toml", f"--longctx-results={fault}"),
    ]
    subprocess.run(command, cwd=folder, check=False, capture_output=True)
    page = folder / f"{fault}.html"
    html.write(read_results(folder / fault / "results.jsonl"), page)
    return page


@pytest.mark.parametrize("fault", MUST_FIND)
def test_the_cause_and_the_next_command_stand_in_the_first_screen(screens, fault):
    cause, beside = MUST_FIND[fault]
    wide, phone = screens[fault]["wide"], screens[fault]["phone"]
    assert cause in wide.splitlines()[0]
    assert beside in wide
    assert "pytest --pyargs pytest_longctx.suites -k " in wide
    assert cause in phone.splitlines()[0]
