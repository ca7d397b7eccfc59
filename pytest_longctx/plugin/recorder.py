"""Skip tests out of scope, and record and report verdicts while tests run. Registered only with a backend."""

import os
import shutil
import signal
import threading
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_longctx import __version__
from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.errors import BootError, LaunchError, LongctxError
from pytest_longctx.findings.finding import Finding
from pytest_longctx.launchers import lint
from pytest_longctx.launchers.start_command import of_deployment
from pytest_longctx.plugin import failures, options, resume
from pytest_longctx.plugin.selection import pair_of
from pytest_longctx.plugin.session import Session, verdicts_of
from pytest_longctx.redaction import masked, shown
from pytest_longctx.reports import html, junit, properties, results, terminal
from pytest_longctx.reports.causes import FAILING, Key, key
from pytest_longctx.reports.properties import Entry
from pytest_longctx.reports.results import Writer

_NOT_ASKED = "longctx_not_asked"
"""Marks the report of a test whose request did not reach an engine."""
JUDGED = ("holds", "broken", "known")


def _usual_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminated(*_: object) -> None:
    """Interrupt the recorded run on the first SIGTERM. The second SIGTERM ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise pytest.exit.Exception("SIGTERM", returncode=128 + signal.SIGTERM)


class Recorder:
    """
    Plugin that follows the reports of all tests on the controller, or without xdist. On an xdist worker, it only
    records.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.entries: dict[tuple[str, str], Entry] = {}
        self.writer: Writer | None = None
        self.unjudged = False
        self._told: dict[str, str] = {}
        """Texts of failures, each with the first test that showed it."""
        self._explained: dict[tuple[str, str], str] = {}
        """Explanations of verdicts, by test and finding."""
        self._failed_boots: dict[str, dict[str, Any]] = {}
        """The last boot of each deployment, if it failed."""
        self._said: dict[str, None] = {}
        """Messages of device monitoring, each once."""
        self._cannot_report = ""
        """The reason why the HTML report could not be written; empty if it was written or not requested."""
        self._cannot_write = ""
        """The reason why results can no longer be written; empty if they can."""
        self._is_worker = hasattr(session.config, "workerinput")

    def pytest_sessionstart(self) -> None:
        """Make SIGTERM end the run as Ctrl-C does, so that all reports are written before the server is stopped."""
        if self._is_worker or threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminated)
            self.session.config.add_cleanup(_usual_sigterm)

    def pytest_report_header(self) -> list[str]:
        """Return the report header of the run: backend, launcher, hardware and seed."""
        chosen, given = self.session.selection, self.session.options
        where = str(chosen.machine.hardware or "unknown hardware")
        strict = ", strict" if given.strict else ""
        part = f", shard {given.shard.partition(':')[0]}" if given.shard else ""
        by = f"longctx: {chosen.backend.name} by {masked(given.launcher, ())} on {where}, seed {self.session.seed}{strict}{part}"
        return [by, *self._resumed()]

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """Return the lint messages of the deployments of this run. A plan prints them itself."""
        chosen, boots = self.session.selection, not self.session.options.plan
        booted = {one.name: one for _, one in map(pair_of, items) if one and boots and chosen.launcher.boots}
        linted = [
            f"longctx: {one.name}: {name}: {what}"
            for one in booted.values()
            for name, what in lint.lint(of_deployment(one, chosen.backend.package))
        ]
        return [*self._foretold(items), *linted] if booted else linted

    def _foretold(self, items: Sequence[pytest.Item]) -> list[str]:
        """Return lines that predict the number of boots and their duration, with the CPU speed behind the prediction."""
        chosen = self.session.selection
        cases = [chosen.case(*pair) for pair in map(pair_of, items) if pair[0] is not None]
        planned = chosen.plan(case for case in cases if case.misfit is None)
        if not planned.boots:
            return []
        if not self._is_worker and not self.session.config.getoption("numprocesses", None):
            # In the order of the tests, which may differ from that of the deployments.
            wanted = dict.fromkeys(case.deployment.name for case in cases if case.misfit is None)
            self.session.boots_ahead = tuple(name for name in wanted if name in planned.boots)
        speed = chosen.here(chosen.deployments[0]).speed
        return [f"longctx: {planned.foretold()}" + (f" ({speed})" if speed else "")]

    def _resumed(self) -> list[str]:
        place, earlier = self.session.options.resume, self.session.earlier
        if place is None:
            return []
        if earlier is None:
            return [f"longctx: nothing to resume in {place}"]
        ended = "a whole run" if earlier.whole else "a run that was cut off"
        return [f"longctx: resuming {earlier.path}, {ended}"]

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """
        Print the plan of the selected tests instead of running them, with ``--longctx-plan``; otherwise return None,
        and pytest runs them.
        """
        if not self.session.options.plan:
            return None
        chosen = [self.session.selection.case(*pair) for pair in map(pair_of, session.items) if pair[0] is not None]
        reporter: Any = session.config.pluginmanager.getplugin("terminalreporter")
        for line in self.session.selection.plan(chosen).lines() if reporter else ():
            reporter.write_line(line)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a test that is out of scope before a server boots for it."""
        if self.session.problems:
            pytest.fail("\n".join(self.session.problems), pytrace=False)
        finding, deployment = pair_of(item)
        if finding is None:
            return
        misfit = self.session.selection.case(finding, deployment).misfit
        if misfit is not None:
            self.session.skip_out_of_scope(item, finding, misfit)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach boots to the test that caused them, and judge a finding whose server failed to boot."""
        finding, _ = pair_of(item)
        raised = call.excinfo.value if call.excinfo else None
        cause = raised if raised is None or isinstance(raised, LongctxError) else raised.__cause__
        if call.when == "setup" and isinstance(cause, BootError) and finding is not None:
            self.session.judge_failed_boot(item, finding, cause.observation)
        report = yield
        rows = [*self.session.unrecorded]
        self.session.unrecorded.clear()
        while self.session.vitals:
            rows.append(properties.row_pair(properties.VITALS, self.session.vitals.popleft()))
        rows += [properties.explained_pair(*each) for each in failures.explanations(self.session, item)]
        if call.when == "call" and report.passed and (wrong := self._not_a_pass(item, finding)):
            report.outcome, report.longrepr = "failed", wrong
        elif call.when == "call" and report.failed and (text := failures.asserted(self.session, item, raised)):
            report.longrepr = failures.shown(text, call)
        elif call.when == "call" and report.failed and not isinstance(raised, LongctxError):
            failures.add_below(report.longrepr, self.session, item)
        if isinstance(raised, UnservedError) and call.when == "call":
            report.longrepr = failures.shown(failures.placed(str(raised), item, call), call)
        elif isinstance(cause, LongctxError):
            # Its text is complete; pytest would print the whole chain of exceptions.
            report.longrepr = self._once(item, cause)
        if call.when == "setup" and isinstance(cause, BootError) and finding is not None:
            self._judged_by_boot(item, report)
        if call.when == "call" and isinstance(cause, LaunchError):
            report.__dict__[_NOT_ASKED] = True
        failures.make_plain(report, call)
        failures.attach(report, rows)
        return report

    def _judged_by_boot(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """
        Report the verdict of a failed boot as a failed test, not as an error of the set-up.

        A boot that was too slow for this run's time limits leaves its finding unmeasured: skipped, unless the run is
        strict.
        """
        reached = verdicts_of(item)
        if reached and reached[-1].word in ("unmeasured", "out of scope") and not self.session.options.strict:
            path, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, f"Skipped: {reached[-1]!r}")
        elif reached:
            report.when = "call"

    @pytest.hookimpl
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
        """
        Return the status error for a request that did not reach an engine, as for one in the set-up; None for all other
        tests.
        """
        return ("error", "E", "ERROR") if report.failed and report.__dict__.get(_NOT_ASKED) else None

    def _not_a_pass(self, item: pytest.Item, finding: Finding | None) -> str:
        """
        Return why a test without an exception has not passed: it ignored its verdict, or has none. Empty if it has
        passed.
        """
        if finding is not None and not verdicts_of(item):
            return f"{finding.id} was not judged: this test has a finding but never called judge()"
        return failures.verdicts_text(self.session, item)

    def _once(self, item: pytest.Item, problem: LongctxError) -> str:
        """
        Return a long failure text for the first test only. For other tests of the same server, return a pointer to the
        first test.
        """
        text = str(problem)
        if isinstance(problem, BootError) and verdicts_of(item):
            return failures.boot_text(self.session, item, text)
        first = self._told.setdefault(text, item.name)
        return text if first == item.name else f"{text.splitlines()[0]} (as in {first})"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record each verdict in the results file as soon as its test has it. End the run if the file cannot be written."""
        if self._is_worker or self._cannot_write:
            return
        try:
            self._write_down(report)
        except OSError as problem:
            self._give_up(problem)
            pytest.exit("results cannot be written", returncode=pytest.ExitCode.INTERRUPTED)

    def _give_up(self, problem: OSError) -> None:
        folder = self.session.options.results
        self._cannot_write = (
            f"{problem.filename or folder / results.NAME}: {problem.strerror}; the results written so far are kept. "
            f"Free some space, and continue with --longctx-resume={folder}"
        )
        if self.writer is not None:
            self.writer.drop()

    def _write_down(self, report: pytest.TestReport) -> None:
        rows = failures.attached(report)
        for row in properties.rows(properties.VITALS, rows):
            self._file().vitals(row)
            self._said |= {row["said"]: None} if "said" in row else {}
        for boot in properties.rows(properties.BOOT, rows):
            self._file().boot(boot)
            self._failed_boots.pop(boot.get("deployment", ""), None)
            if boot["outcome"] != "serves":
                self._failed_boots[boot.get("deployment", "")] = boot
        for request in properties.rows(properties.REQUEST, rows):
            self._file().request(report.nodeid, request)
        for place in properties.found(rows):
            self._file().found(report.nodeid, place)
        for row in properties.rows(properties.DRIFT, rows):
            self._file().drift(report.nodeid, row)
        for row in properties.rows(properties.EXPLAINED, rows):
            self._explained[report.nodeid, row["finding"]] = row["text"]
        for entry in properties.entries(report.user_properties):
            case = (report.nodeid, entry.finding)
            if case not in self.entries:
                self.entries[case] = replace(entry, explained=self._explained.get(case, ""))
                self._put_down(report, self.entries[case])

    def _put_down(self, report: pytest.TestReport, entry: Entry) -> None:
        if entry.carried and self.session.earlier is not None:
            deployment = entry.server["deployment"]
            self._file().carry(self.session.earlier.with_its_own(report.nodeid, entry.finding, deployment))
        else:
            self._file().verdict(report.nodeid, report.outcome, report.duration, entry)

    def _file(self) -> Writer:
        if self.writer is None:
            chosen = self.session.selection
            header: dict[str, Any] = {
                "longctx": __version__,
                "pytest": pytest.__version__,
                "arguments": [masked(os.fspath(word), ()) for word in self.session.config.invocation_params.args],
                "options": [masked(word, ()) for word in options.repeated(self.session.config)],
                "root": str(self.session.config.rootpath),
                "backend": chosen.backend.name,
                "launcher": chosen.launcher.name,
                "hardware": str(chosen.machine.hardware or "unknown"),
                "machine": chosen.here(chosen.deployments[0]).facts,
                "seed": self.session.seed,
                "strict": self.session.options.strict,
                "conditions": resume.conditions(self.session.options),
            }
            earlier = self.session.earlier
            self.writer = Writer(self.session.options.results, header, earlier.path if earlier else None)
        return self.writer

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run that recorded no judged finding; then close the results file."""
        if self._is_worker or self._cannot_write:
            return
        found, shard = self.entries.values(), self.session.shard
        others_judge = bool(shard and shard["whole_judges"])
        # Published claims need no server, so they do not show that one was there.
        proves_nothing = not any(entry.verdict in JUDGED and entry.server for entry in found) and any(
            entry.verdict not in JUDGED for entry in found
        )
        may_be_unjudged = self.session.options.allow_unjudged or others_judge
        if proves_nothing and not may_be_unjudged and exitstatus == pytest.ExitCode.OK:
            self.unjudged = True
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if others_judge and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # there are more shards than deployments
        try:
            if self.writer is not None or shard:
                self._file().close(int(session.exitstatus), **({"shard": shard} if shard else {}))
        except OSError as problem:
            self._give_up(problem)
            session.exitstatus = pytest.ExitCode.INTERRUPTED
            return
        if self.writer is not None and self.session.options.report is not None:
            self._report(session, self.writer, self.session.options.report)

    def _report(self, session: pytest.Session, writer: Writer, page: Path) -> None:
        """
        Write the HTML report. If that fails, print one line and make a green run red. JUnit XML and the table still
        follow.
        """
        try:
            baseline = self.session.options.baseline
            html.write(results.read(writer.place()), page, results.read(baseline) if baseline else None)
        except Exception as problem:  # noqa: BLE001 - whatever is wrong with a report, the other reports must be written
            why = getattr(problem, "strerror", None) or f"{type(problem).__name__}: {problem}"
            said = (
                f"the report {page} could not be written: {why}; the results are complete: longctx report {writer.path}"
            )
            self._cannot_report = " ".join(shown(said).split())
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """
        Complete pytest's JUnit XML with stable class names, the recorded explanations, and the properties at
        the wanted level.
        """
        written = config.getoption("xmlpath", None)
        if not written or self._is_worker:
            return
        path = Path(os.path.expandvars(written)).expanduser()
        if path.is_file():
            notes: dict[junit.Test, str] = {}
            for (test, _), text in self._explained.items():
                address = junit.address(test, config.getoption("junitprefix", None) or "")
                notes[address] = "\n\n".join(filter(None, (notes.get(address), text)))
            junit.complete(path, notes, of_suite=self.session.options.junit_properties == "suite")

    def _by_cause(self, found: Sequence[Entry]) -> dict[Key, list[Entry]]:
        """Return the recorded failing verdicts of this run, grouped by cause."""
        grouped: dict[Key, list[Entry]] = {}
        for entry in found:
            if entry.verdict in FAILING:
                name = entry.server.get("deployment", "")
                its = Key("boot", name) if name in self._failed_boots else key(entry.why, name)
                grouped.setdefault(its, []).append(entry)
        return grouped

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table of recorded verdicts on the terminal."""
        found = list(self.entries.values())
        for line in self._said:
            terminalreporter.write_line(f"longctx: {' '.join(shown(line).split())}", yellow=True)
        if self._cannot_report:
            terminalreporter.write_line(f"longctx: {self._cannot_report}", red=True)
        if self._cannot_write:
            terminalreporter.write_line(f"longctx: {self._cannot_write}", red=True)
        if self._is_worker or not found or self.session.config.get_verbosity() < -1:
            return
        terminalreporter.section("findings")
        self._write_table(terminalreporter, found)
        for line in terminal.resumed(found) if self.session.earlier else ():
            terminalreporter.write_line(line)
        if self.writer is not None:
            terminalreporter.write_line(f"results: {self.writer.path}")
            if self.session.options.report is not None and not self._cannot_report:
                terminalreporter.write_line(f"report: {self.session.options.report}")
        if self.unjudged:
            said = "no finding was judged, so the run fails (--longctx-allow-unjudged lets it pass)"
            terminalreporter.write_line(said, red=True)

    def _write_table(self, terminalreporter: Any, found: Sequence[Entry]) -> None:
        columns = shutil.get_terminal_size().columns if terminalreporter.isatty else 0
        width = min(max(columns, terminal.LEAST_WIDTH), terminal.MOST_WIDTH)
        for line, colour in terminal.table(found, self.session.config.get_verbosity(), width):
            terminalreporter.write_line(line, **{colour: True})
        for line in terminal.causes(self._by_cause(found), self._failed_boots, width):
            terminalreporter.write_line(line, red=True)
        terminalreporter.write_line(terminal.tally(found), bold=True)
        for line, colour in terminal.claims(found, width):
            terminalreporter.write_line(line, **({colour: True} if colour else {}))
