"""GitHub Actions output of a run: an annotation for each verdict that does not hold, and a summary of the step."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.plugin.recorder import Recorder
from pytest_longctx.reports.explanation import of_finding
from pytest_longctx.reports.pages import markdown_table
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.terminal import tally
from pytest_longctx.units import duration

_LEVELS = {"broken": "error", "unmeasured": "warning"}
_MOST_ROWS = 500
"""Most rows of a step's summary, which GitHub limits to 1 MiB."""


def annotation(entry: Entry, file: Path | None, line: int | None, *, failed: bool, rows: str = "") -> str | None:
    """
    Return the GitHub Actions annotation (workflow command) for one verdict; None for a verdict that needs none.

    *line* counts from 1. *rows* of a verdict that failed its test say what was asked, seen and allowed, and how to
    repeat it.
    """
    level = _LEVELS.get(entry.verdict)
    if level is None:
        return None
    level = "error" if failed else level
    place = {"file": str(file), "line": str(line or 1)} if file else {}
    given = {**place, "title": f"{entry.finding} {entry.verdict}{_on(entry)}"}
    properties = ",".join(f"{name}={_escaped(value, also=':,')}" for name, value in given.items())
    said = "\n".join(filter(None, (entry.why or entry.title, rows)))
    return f"::{level} {properties}::{_escaped(said)}"


def _escaped(text: str, also: str = "") -> str:
    for letter in f"%\r\n{also}":
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _on(entry: Entry) -> str:
    return f" on {entry.server['deployment']}" if "deployment" in entry.server else ""


def summary(found: Sequence[Entry], notes: Sequence[str] = ()) -> Iterator[str]:
    """
    Yield the GitHub step summary as Markdown. Verdicts that do not hold come first; verdicts out of scope are only
    counted.
    """
    yield f"### Findings: {tally(found)}\n"
    yield from (f"{note}\n" for note in notes)
    rows = [each for word in WORST_FIRST if word != "out of scope" for each in found if each.verdict == word]
    if rows:
        yield from markdown_table(("finding", "verdict", "deployment", "TTFT", ""), map(_row, rows[:_MOST_ROWS]))
    if len(rows) > _MOST_ROWS:
        yield f"\nand {len(rows) - _MOST_ROWS} more."
    yield ""


def _row(entry: Entry) -> tuple[str, ...]:
    ttft_s = entry.measured.get("ttft_s")
    word = f"{entry.verdict}, carried over" if entry.carried else entry.verdict
    cells = (
        entry.finding,
        f"**{word}**" if entry.verdict in _LEVELS else word,
        entry.server.get("deployment", ""),
        "" if ttft_s is None else duration(ttft_s),
        entry.why or entry.title,
    )
    return tuple(map(_cell, cells))


def _cell(text: str) -> str:
    """Return *text* on one line, without characters that end a table cell or open a tag."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;")


class GitHubAnnotations:
    """
    Plugin that writes GitHub's commands and summary from the verdicts of `Recorder`, on the controller or without
    xdist.
    """

    def __init__(self, reporting: Recorder) -> None:
        self.reporting = reporting
        self._ended: dict[str, tuple[str, int | None, bool]] = {}
        self._told: dict[str, str] = {}
        """pytest's text of each failed test."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store each test's location for its GitHub annotation, and whether the test failed."""
        path, line, _ = report.location
        failed = report.failed or self._ended.get(report.nodeid, ("", None, False))[2]
        self._ended[report.nodeid] = (path, line, failed)
        if report.failed:
            self._told[report.nodeid] = report.longreprtext

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """Print one GitHub annotation per line, and append the summary to the file ``GITHUB_STEP_SUMMARY``."""
        for (test, _), entry in self.reporting.entries.items():
            path, line, failed = self._ended[test]
            place = _in_workspace(config.rootpath / path)
            line = None if line is None else line + 1
            rows = of_finding(self._told.get(test, ""), entry.finding, entry.verdict)
            if said := annotation(entry, place, line, failed=failed, rows=rows):
                terminalreporter.ensure_newline()
                terminalreporter.write_line(said)
        if (page := os.environ.get("GITHUB_STEP_SUMMARY")) and self.reporting.entries:
            notes = ["**No finding was judged, so the run fails.**"] if self.reporting.unjudged else []
            try:
                with Path(page).open("a", encoding="utf-8") as file:
                    file.writelines(f"{each}\n" for each in summary(list(self.reporting.entries.values()), notes))
            except OSError as problem:
                terminalreporter.write_line(
                    f"longctx: the step summary {page} could not be written: {problem.strerror}", red=True
                )


def _in_workspace(path: Path) -> Path | None:
    """
    Return *path* relative to the repository's root, as GitHub annotations require; None for a path outside, as of an
    installed suite.
    """
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    found = path.resolve()
    return found.relative_to(root) if found.is_relative_to(root) and found.is_file() else None
