"""What reaches a CI system's log, and reports that cannot be written."""

import json
import re
from statistics import median
from xml.etree import ElementTree as ET

import pytest

from pytest_longctx import read_results
from pytest_longctx.reports import html
from pytest_longctx.reports.compare import compare
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.results import NAME, Writer
from tests.conftest import FAULTY
from tests.unit import factories

ATTACKS = (
    "::error file=a.py,line=1::injected",
    "  ::set-output name=x::injected",
    "##[error]injected",
    "words ##vso[task.setvariable variable=x]injected",
    "##teamcity[buildStatus text='injected']",
    "\x1b]0;injected title\x07\x1b[2J\x1b[31mred",
    "a\rb\x9b31m\u202ereversed\u2028::error::line",
)
PRINTS = """
import sys
sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
for attack in {attacks!r}:
    print("ValueError: " + attack + "\\n" + attack, flush=True)
"""


def booting(pytester, *attacks):
    """A deployment whose engine prints *attacks* and ends."""
    code = pytester.mkdir("code")
    (code / "sitecustomize.py").write_text(PRINTS.format(attacks=attacks), encoding="utf-8")
    (pytester.path / "faulty.toml").write_text(
        FAULTY.format(fault="exits-at-boot", boot_s=30, answer_s=30, stall_s=30)
        + f"[env]\nPYTHONPATH = {json.dumps(str(code))}\n",
        encoding="utf-8",
    )
    return ("--backend=miniature", "--longctx-deployment=faulty.toml", "-m", "smoke", "--junitxml=report.xml")


def test_no_line_of_an_engine_is_a_command_or_reaches_the_terminal_raw(run, pytester):
    done = run(*booting(pytester, *ATTACKS), "-rA")
    assert "injected" in done.text
    lines = re.split(r"[\n\r\x0b\x0c\x85\u2028\u2029]", done.text)
    assert [line for line in lines if line.lstrip().startswith("::")] == []
    assert not re.search(r"##\w*\[", done.text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", done.text)
    ET.parse(done.folder / "report.xml")
    for row in (done.folder / "results" / NAME).read_text(encoding="utf-8").splitlines():
        assert not re.search(r"##\w*\[|(?<!\\)\\u(?:001b|202e)", row)


@pytest.mark.parametrize("what", ["report", "summary"])
def test_a_report_that_cannot_be_written_is_one_line_and_the_others_are_written(run, pytester, monkeypatch, what):
    """A full disk is ``/dev/full``."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full" if what == "summary" else str(pytester.path / "summary.md"))
    page = "/dev/full" if what == "report" else "report.html"
    done = run(
        "--backend=miniature", "-m", "smoke", "--junitxml=report.xml", f"--longctx-report={page}", "--longctx-github"
    )
    (line,) = [line for line in done.text.splitlines() if "could not be written" in line]
    assert line.startswith(
        f"longctx: the {'report' if what == 'report' else 'step summary'} /dev/full could not be written: "
    )
    assert "No space left on device" in line
    assert "Traceback" not in done.text
    assert "results cannot be written" not in done.text
    ET.parse(done.folder / "report.xml")
    assert done.results.verdicts
    assert done.outcome.ret == (1 if what == "report" else 0)


def test_a_report_is_made_from_the_rows_of_its_own_run(tmp_path):
    """Two runs in one folder: the later one renames the file of the first."""
    first = Writer(tmp_path, {"seed": 1})
    second = Writer(tmp_path, {"seed": 2})
    for writer in (first, second):
        writer.verdict("test_x", "passed", 1.0, Entry("TT-0001", "holds"))
        writer.close(0)
    assert [read_results(writer.place()).header["seed"] for writer in (first, second)] == [1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_figure_that_is_not_finite_is_not_written(tmp_path, value):
    writer = Writer(tmp_path, {})
    writer.boot({"outcome": "serves", "deployment": "d", "figures": {"boot_s": value}})
    writer.close(0)
    (boot,) = read_results(tmp_path / NAME).boots
    assert boot["figures"] == {}


def test_thousands_of_verdicts_of_one_case_are_compared_with_a_linear_number_of_medians(monkeypatch):
    from pytest_longctx.reports import compare as module

    many = factories.results(*(factories.verdict(ttft_s=1.0 + n / 1e6, prompt_tokens=1000.0) for n in range(3000)))
    calls: list[int] = []

    def counted(values):
        calls.append(len(values))
        return median(values)

    monkeypatch.setattr(module, "median", counted)
    assert {change.word for change in compare(many, many)} == {"same"}
    assert len(calls) < 100


def test_a_page_with_hostile_text_runs_no_script(tmp_path):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    row = {**factories.verdict(word="broken"), "why": hostile, "said": hostile, "title": hostile}
    html.write(factories.results(row), tmp_path / "report.html")
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in written
    assert "<img src=x" not in written
