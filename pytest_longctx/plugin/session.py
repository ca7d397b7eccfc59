"""The state of one pytest run: its selection, its boots, and its verdicts until a report takes them."""

import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any

import pytest

from pytest_longctx import plan, redaction, registry
from pytest_longctx.client.adapters import EvaluationTool, LoadTool, ToolRun, runner
from pytest_longctx.client.drift.readings import Readings
from pytest_longctx.client.exchange import Exchange, observation_of
from pytest_longctx.client.load import Load
from pytest_longctx.client.repeatability import Answers
from pytest_longctx.client.server import Server, exclusive
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.devices.sampler import Sampler
from pytest_longctx.diagnosis.good_boots import GoodBoots
from pytest_longctx.errors import LongctxError, UsageError
from pytest_longctx.findings import verdicts
from pytest_longctx.findings.ask import Ask
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.scope import Mismatch, mismatch
from pytest_longctx.findings.verdicts import WORST_FIRST, Verdict
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers import boot as launchers_boot
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Observation
from pytest_longctx.plugin.options import Options
from pytest_longctx.plugin.progress_line import ProgressLine
from pytest_longctx.plugin.selection import Selection
from pytest_longctx.plugin.worker_progress import FOLDER, WorkerLine
from pytest_longctx.processes import clock
from pytest_longctx.processes.progress import ProgressCallback
from pytest_longctx.reports import properties, results, resume
from pytest_longctx.reports.causes import Key
from pytest_longctx.reports.compare import Gate
from pytest_longctx.reports.resume import Earlier

Evidence = Exchange | Sequence[Exchange] | Observation
Judge = Callable[[Evidence], Verdict]
"""
Function that judges evidence by a test's finding, records the verdict and returns it. The verdict is true if the
finding holds.

Several exchanges are repetitions of one question. The median is judged.
"""


@dataclass
class Session:
    """The state of a whole pytest run."""

    config: pytest.Config
    options: Options
    seed: int
    _own: str = field(default_factory=lambda: secrets.token_hex(8))
    """Random text that is unique to this run."""
    unrecorded: list[tuple[str, str]] = field(default_factory=list)
    """Boots and requests, as pairs, that are not yet in a test report."""
    told_causes: dict[Key, tuple[str, str]] = field(default_factory=dict)
    """The first test and finding that explained each cause."""
    last_boot: Boot | None = None
    sampler: Sampler = field(default_factory=Sampler)
    """Samples the running server."""
    vitals: deque[Mapping[str, Any]] = field(default_factory=deque)
    """Samples of devices and host that are not yet in a report."""
    booted: dict[str, Boot] = field(default_factory=dict)
    """The last boot of each deployment, also of stopped ones."""
    drift_readings: dict[tuple[str, str], Readings] = field(default_factory=dict)
    """Readings of this run for 'drift' findings, by deployment and texts."""
    repeated_answers: dict[tuple[str, str], Answers] = field(default_factory=dict)
    """Answers of this run for 'repeatable' findings, by deployment and prompt."""
    gate: Gate | None = None
    """The baseline with which this run is compared, and its limits; None without a baseline."""
    earlier: Earlier | None = None
    """The run that this one resumes."""
    shard: dict[str, Any] | None = None
    """This run's shard, and how the tests were split; known after collection."""
    problems: list[str] = field(default_factory=list)
    """Errors in the markers of collected tests."""
    boots_ahead: tuple[str, ...] = ()
    """The deployments that this run will boot, in order; empty if unknown, or if workers share them."""
    longest_prompts: dict[str, int] = field(default_factory=dict)
    """The longest prompt of the collected tests in tokens, by deployment."""

    @cached_property
    def progress_line(self) -> ProgressLine | WorkerLine:
        """The session's line for the progress of long waits. Under xdist, the controller prints a worker's line."""
        told: dict[str, Any] = getattr(self.config, "workerinput", {})
        return WorkerLine(told[FOLDER], told["workerid"]) if FOLDER in told else ProgressLine(self.config)

    def hide_secrets(self) -> None:
        """Mask the secrets of this process's environment and of every deployment in all output of this run."""
        redaction.remember(redaction.secret_values(os.environ))
        for one in self.selection.deployments:
            flags = [f"--{name}={value}" for name, value in one.flags.items()]
            redaction.remember(redaction.secret_values(one.env, flags))

    @cached_property
    def selection(self) -> Selection:
        """The session's selection of findings and deployments."""
        return Selection(self.config, self.options)

    def boot(self, deployment: Deployment) -> Iterator[Boot]:
        """Boot *deployment* for a generator fixture: yield the boot, failed or not, then stop the server."""
        prepared = self.selection.boot_settings.prepared
        with (
            failing_plainly(),
            prepared(deployment, self.progress_line.update, self.vitals.append) as (launch, self.sampler),
        ):
            self.progress_line.begin()
            longest = self.longest_prompts.get(deployment.name)
            place = self._place(deployment.name)
            placed = replace(launch, place=place, longest_prompt=longest, good_boots=self._good_boots())
            yield from self._boot(placed, self.sampler)

    def _good_boots(self) -> GoodBoots | None:
        """Return the logs of good boots in pytest's cache; None for a session without a cache."""
        cache = getattr(self.config, "cache", None)
        return None if cache is None else GoodBoots(cache.mkdir("longctx-good-boots"))

    def _place(self, name: str) -> str:
        """Return the number of the boot of deployment *name* among all boots, for the progress line."""
        ahead = self.boots_ahead
        return f"{ahead.index(name) + 1} of {len(ahead)}: " if name in ahead else ""

    def _boot(self, launch: Launch, sampler: Sampler) -> Iterator[Boot]:
        chosen, since_s = self.selection, time.monotonic()
        here = chosen.here(launch.deployment)
        predicted = plan.predict(launch.deployment, chosen.backend, here)
        with launchers_boot.boot(chosen.launcher, launch, here, chosen.version, predicted) as seen:
            self.progress_line.clear()
            server = seen.server and replace(seen.server, salt=self._salt(seen.server))
            failure = seen.failure
            if failure is not None and failure.observation.kind is not None:
                from pytest_longctx.plan import failed_boot  # noqa: PLC0415 - only after a failure

                tried = failed_boot.rows(failure.observation.kind, launch.deployment, here)
                failure = failure.with_rows("tried", tried)
            peaks = sampler.peaks(since_s, time.monotonic())
            booted = replace(seen, server=server, failure=failure, peaks=peaks)
            self.last_boot = self.booted[launch.deployment.name] = booted
            if booted.server is not None:
                sampler.attend(booted.server)
            self.unrecorded.append(properties.row_pair(properties.BOOT, booted.record()))
            yield booted

    @contextmanager
    def measuring(self, server: Server, sent_tokens: int | None = None) -> Iterator[dict[str, Any]]:
        """
        Hold the lock of *server* for a request or a load of *sent_tokens*, and yield the row of the request, which is
        recorded with its times and the caller's additions.
        """
        with exclusive(server.url, self.progress_line.update):
            self.sampler.hold_still()
            row: dict[str, Any] = {"deployment": server.deployment.name, "started_s": clock.unix_s()}
            row |= {} if sent_tokens is None else {"sent_tokens": sent_tokens}
            try:
                yield row
            finally:
                self.progress_line.clear()
                row["ended_s"] = clock.unix_s()
                self.unrecorded.append(properties.row_pair(properties.REQUEST, row))

    def judge_for(self, item: pytest.Item, finding: Finding, boot: Boot | None) -> Judge:
        """
        Return the judge of one test, which judges evidence by *finding* and records the verdict. Without a *boot*, it
        judges a claim.
        """

        def judge(evidence: Evidence) -> Verdict:
            with failing_plainly():
                seen = boot.evidence(evidence) if boot else observation_of(evidence)
            misfit = _misfit(finding, boot)
            verdict = verdicts.out_of_scope(finding, misfit.line) if misfit else self._verdict(finding, boot, seen)
            self.record(item, verdict, boot)
            self._end(verdict)
            return verdict

        return judge

    def _verdict(self, finding: Finding, boot: Boot | None, seen: Observation) -> Verdict:
        """Return the verdict on *finding* for the observation *seen*, by its bounds, the baseline and the prediction."""
        if boot is None:
            return verdicts.judge(finding, seen)
        gated = self.gate.lines(finding.id, boot.facts, seen.metrics) if self.gate else ()
        remark = verdicts.remark(finding, boot.predicted, seen)
        return verdicts.judge(finding, seen, gated, remark, self._warmed(boot))

    def _end(self, verdict: Verdict) -> None:
        """Skip or xfail the test if its verdict neither passes nor fails it."""
        known = verdict.finding.known
        if verdict.word == "known" and known:
            pytest.xfail(f"{verdict!r} ({known.issue})")
        if verdict.word == "out of scope" or (verdict.word == "unmeasured" and not self.options.strict):
            pytest.skip(repr(verdict))

    def _salt(self, server: Server) -> str:
        """
        Return the session's cache salt, which prevents an attached server from answering a repeated seed from its
        prefix cache.
        """
        return self._own if self._repeats(server) and server.backend.salted else ""

    def _repeats(self, server: Server) -> bool:
        return self.options.seed is not None and server.attached

    def _warmed(self, boot: Boot) -> str:
        """Return why the server's cache may already hold a prompt of this run; empty if it cannot."""
        if boot.server is None or not self._repeats(boot.server):
            return ""
        salted = boot.server.salt and self.options.load is None
        heeded = "; the server used its cache although the requests had a cache_salt of this run" if salted else ""
        return (
            f"--longctx-seed={self.seed} repeats the prompts of an earlier run, which this server may still have in its "
            f"cache{heeded}: omit the seed, or restart the server"
        )

    def judge_failed_boot(self, item: pytest.Item, finding: Finding, seen: Observation) -> None:
        """Judge a finding that needs a server by *seen*, the observation of the failed boot."""
        boot = self.last_boot
        misfit = _misfit(finding, boot)
        verdict = verdicts.out_of_scope(finding, misfit.line) if misfit else verdicts.judge(finding, seen)
        self.record(item, verdict, boot)

    def load_by_tool(self, name: str, server: Server, asked: Ask) -> Load:
        """Send a load to the server with the load tool *name*, and return the result."""
        tool: LoadTool = registry.load(registry.LOADS[name])()
        return runner.run_load(
            tool, self._tool_run(server, asked, name), self.options.python, self.progress_line.update
        )

    def accuracy_by_tool(self, server: Server, asked: Ask) -> Observation:
        """Measure the accuracy of the server's answers with lm-eval, and return the observation."""
        tool: EvaluationTool = registry.load(registry.EVALUATIONS["lm-eval"])()
        return runner.score(
            tool, self._tool_run(server, asked, tool.name), self.options.python, self.progress_line.update
        )

    def _tool_run(self, server: Server, asked: Ask, name: str) -> ToolRun:
        # Each run of a tool has a log of its own; several runs, and the workers of one, share a folder.
        stem = f"{name}-{server.deployment.name}-{os.getpid()}"
        folder = next(path for n in count(1) if not (path := self.options.results / "tools" / f"{stem}-{n}").exists())
        tasks = next((path for home in reversed(self.selection.folders) if (path := home / "tasks").is_dir()), None)
        return ToolRun(server, asked, self.seed, folder.resolve(), tasks and tasks.resolve())

    def skip_out_of_scope(
        self, item: pytest.Item, finding: Finding, misfit: Mismatch, boot: Boot | None = None
    ) -> None:
        """Skip *item*, whose finding does not apply to this server. Without a *boot*, this was known before any boot."""
        verdict = verdicts.out_of_scope(finding, misfit.line)
        self.record(item, verdict, boot)
        self._end(verdict)

    def record(self, item: pytest.Item, verdict: Verdict, boot: Boot | None) -> None:
        """Attach *verdict* to *item*, from which JUnit XML, xdist and the results file take it."""
        earlier = verdicts_of(item)
        earlier.append(verdict)
        same = [each for each in earlier if each.finding.id == verdict.finding.id]
        worst = min(same, key=lambda each: WORST_FIRST.index(each.word))
        item.user_properties[:] = properties.without(item.user_properties, verdict.finding.id)
        facts = {**boot.facts, "seed": str(self.seed)} if boot else {}
        item.user_properties.extend(properties.server_pairs(facts))
        item.user_properties.extend(properties.verdict_pairs(worst))
        self.config.hook.pytest_longctx_judged(item=item, verdict=verdict)

    def watch_request(self, server: Server, prompt_tokens: int) -> ProgressCallback:
        """Return `ProgressLine.update` for one request, with the expected time to first token."""
        here, backend = self.selection.machine.hardware, server.backend
        expected_s = plan.expected_ttft_s(server.deployment, prompt_tokens, here, backend)
        return lambda progress: self.progress_line.update(replace(progress, expected_s=expected_s))

    def note_found(self, server: Server, prompt_tokens: int, places: Sequence[tuple[float, float]]) -> None:
        """Record the needles found in a prompt: the score, 0 to 1, at each depth, 0 to 1."""
        self.unrecorded.append(properties.found_pair(server.deployment.name, prompt_tokens, places))


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Fail the test with the text of a `LongctxError` and without a traceback."""
    try:
        yield
    except LongctxError as problem:
        raise pytest.fail.Exception(str(problem), pytrace=False) from problem


def _misfit(finding: Finding, boot: Boot | None) -> Mismatch | None:
    """Return why *finding* does not apply to the server of *boot*; None if it applies, or needs no server."""
    return mismatch(finding, boot.conditions, settled=True) if boot else None


_VERDICTS = pytest.StashKey[list[Verdict]]()


def verdicts_of(item: pytest.Item) -> list[Verdict]:
    """Return the verdicts recorded for the test *item* so far."""
    return item.stash.setdefault(_VERDICTS, [])


_SESSION = pytest.StashKey[Session]()


def open_session(config: pytest.Config, options: Options) -> Session:
    """Create the run's session, store it in *config* and return it. xdist workers use the controller's seed."""
    handed: dict[str, Any] = getattr(config, "workerinput", {})
    seed = options.seed if options.seed is not None else handed.get("longctx_seed")
    earlier = resume.read(options.resume) if options.resume else None
    session = Session(config, options, 0, gate=_gate(options), earlier=earlier)
    if seed is None and earlier is not None and session.selection.launcher.boots:
        # The same prompts as the interrupted run; an attached server may still have them in its cache.
        seed = earlier.seed
    session.seed = secrets.randbits(32) if seed is None else seed
    config.stash[_SESSION] = session
    return session


def _gate(options: Options) -> Gate | None:
    """
    Return the baseline and its limits, by which a session judges regressions; None without a baseline. Raises
    `UsageError` and `ResultsError`.
    """
    if (options.baseline is None) != (not options.fail_on):
        raise UsageError(
            "give both --longctx-baseline (a results file) and --longctx-fail-on (the measures that must not get worse)"
        )
    if options.baseline is None:
        return None
    return Gate.of(results.read(options.baseline), options.fail_on, tuple(MEASURES))


def session_of(config: pytest.Config) -> Session:
    """Return the run's session, which *config* contains. If no backend is selected, fail the test."""
    found = config.stash.get(_SESSION, None)
    if found is None:
        pytest.fail("no backend is selected: use --backend=NAME, or set longctx_backend in the ini file", pytrace=False)
    return found
