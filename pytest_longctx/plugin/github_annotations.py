"""The door, under GitHub Actions: what did not hold as annotations of its test, and the run as the summary of its step."""

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx.plugin import github
from pytest_longctx.plugin.recorder import Reporting
from pytest_longctx.reports.explanation import of_finding


class Annotating:
    """Listens beside `Reporting`, which keeps the verdicts; on the controller and alone."""

    def __init__(self, reporting: Reporting) -> None:
        self.reporting = reporting
        self._ended: dict[str, tuple[str, int | None, bool]] = {}
        self._told: dict[str, str] = {}
        """What pytest shows of each test that failed."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Where each test stands, and whether it failed."""
        path, line, _ = report.location
        failed = report.failed or self._ended.get(report.nodeid, ("", None, False))[2]
        self._ended[report.nodeid] = (path, line, failed)
        if report.failed:
            self._told[report.nodeid] = report.longreprtext

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        """GitHub reads commands from the output, each on a line of its own, and the summary from a file that it names."""
        for (test, _), entry in self.reporting.entries.items():
            path, line, failed = self._ended[test]
            place = _in_workspace(config.rootpath / path)
            line = None if line is None else line + 1
            rows = of_finding(self._told.get(test, ""), entry.finding, entry.verdict)
            if said := github.annotation(entry, place, line, failed=failed, rows=rows):
                terminalreporter.ensure_newline()
                terminalreporter.write_line(said)
        if (page := os.environ.get("GITHUB_STEP_SUMMARY")) and self.reporting.entries:
            notes = (
                ["**No finding was judged: this run proves nothing, and is red.**"] if self.reporting.unjudged else []
            )
            with Path(page).open("a", encoding="utf-8") as file:
                file.writelines(f"{each}\n" for each in github.summary(list(self.reporting.entries.values()), notes))


def _in_workspace(path: Path) -> Path | None:
    """*path* as GitHub wants it, from the root of the repository; None for what is not in it, such as an installed suite."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    found = path.resolve()
    return found.relative_to(root) if found.is_relative_to(root) and found.is_file() else None
