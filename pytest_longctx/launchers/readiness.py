"""
Wait until a server is ready, and explain the failure if it is not.

Ready means: alive, healthy, its model listed, one token generated. Servers that never answered have had an open port,
and even a passing health check.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from pytest_longctx.client.server import Server, Unaskable
from pytest_longctx.client.server_metrics import Stall
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess, diagnose, from_outside
from pytest_longctx.diagnosis.log_activity import LogMotion
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import PHASES
from pytest_longctx.errors import BootError, LaunchError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.readiness_probe import ReadinessProbe
from pytest_longctx.observation import Kind, Observation
from pytest_longctx.processes import Candidate
from pytest_longctx.processes.progress import Progress
from pytest_longctx.redaction import shown
from pytest_longctx.units import duration

_MACHINES: tuple[Kind, ...] = ("port-taken", "dirty-gpu", "engine-missing", "environment", "toolchain-missing")
"""Classes of problems of the machine or the installation, which are no evidence about the server."""
_POLL_S = 0.1
_LAST_WORDS_S = 0.5
"""Seconds for which a server may continue to log after a line that reports a failure."""
_TAIL_LINES = 12
_MOST_DIFFERENCES = 6
_WIDEST = 400
"""Maximum length in characters of one line of an explanation."""
STOPPER = "who sends signals here: an orchestrator's probe, a time limit, a person"
HALTER = "kill -CONT PID; and who stops processes here: a terminal (Ctrl-Z), a debugger, a suspended job"
UNREACHABLE_S = 5.0
"""Seconds for which an address without a listener is tried again, if the server should already run."""


def await_ready(candidate: Candidate, launch: Launch, hoped: Server, *, boot_s: float) -> Server:
    """
    Wait until *hoped*, a server, has generated a token, and return it with version and limits. Raises `BootError` with
    the failure.
    """
    with ReadinessProbe(hoped) as probe:
        return _Wait(candidate, launch, probe, boot_s).until_ready()


@dataclass(slots=True)
class _Wait:
    """The wait for one server to become ready."""

    candidate: Candidate
    launch: Launch
    probe: ReadinessProbe
    boot_s: float
    reading: LogReader = field(init=False)
    stall: Stall = field(init=False)
    elapsed_s: float = 0.0
    _log: LogMotion = field(init=False)
    _heard: set[tuple[str, str]] = field(default_factory=set)
    """The state of the probe."""

    def __post_init__(self) -> None:
        catalogue = self.launch.backend.catalogue
        self.reading = LogReader(catalogue)
        timeouts = self.launch.deployment.timeouts
        self.stall = Stall(min(timeouts.boot_stall_s, self.boot_s / 2), self.candidate.started_s)
        self._log = LogMotion(self.candidate.log, tuple(each.regex for each in catalogue.benign if each.kind))

    def until_ready(self) -> Server:
        failure_seen_s: float | None = None
        while True:
            exit_code = self.candidate.exit_code()  # before the log is read, so that its last lines are not missed
            lines = list(self.candidate.new_lines())
            for line in lines:
                self.reading.feed(line)
            now_s = time.monotonic()
            self.elapsed_s = now_s - self.candidate.started_s
            if self.probe.answered is not None:
                return self._answered(self.probe.answered)
            if self.probe.unaskable is not None:
                raise LaunchError(self._cannot_be_asked(self.probe.unaskable))
            if self.probe.trouble is not None:
                raise self.probe.trouble
            self._note_motion(now_s, lines)
            if self.reading.fatal and failure_seen_s is None:
                failure_seen_s = self.elapsed_s
            said_its_last = failure_seen_s is not None and self.elapsed_s - failure_seen_s > _LAST_WORDS_S
            if exit_code is not None or said_its_last or self.probe.refused or self._is_over(now_s):
                raise self._failed(exit_code)
            phase = self.probe.step if self.reading.phase == "serve" else PHASES[self.reading.phase]
            what, times = f"boot {self.launch.place}{self.launch.deployment.name}", self.launch.deployment.timeouts
            usual_s = times.usual_boot_s or times.expected_boot_s
            self.launch.watch(Progress(what, phase, self.elapsed_s, self.boot_s, expected_s=usual_s))
            time.sleep(_POLL_S)

    def _note_motion(self, now_s: float, lines: list[str]) -> None:
        """Record whether the log or the probe's state has changed since the last call."""
        if self._log.grown() if self._log.path is not None else self._log.new(lines):
            self.stall.move(now_s, f"the log ({self._log.last[:120]})", step=False)
        heard = (self.probe.step, " ".join(self.probe.last.split()[:2]))  # a health check may return the time
        if heard not in self._heard:
            self._heard.add(heard)
            self.stall.move(now_s, f"the answer to {heard[0]}", step=False)

    def _is_over(self, now_s: float) -> bool:
        """Return whether the wait is over: the server is ready, has ended or failed, or the time limit has passed."""
        if self.candidate.ours:
            return self.stall.look(now_s) is not None or self.elapsed_s > self.boot_s
        # It should run already: a refused connection means that no server is there.
        unreachable = not self.probe.connected and (bool(self.probe.unreachable) or self.elapsed_s > UNREACHABLE_S)
        return unreachable or self.elapsed_s > self.boot_s

    def _answered(self, answered: Server) -> Server:
        """
        Return the ready server with all known figures. Raises `BootError` if its KV cache cannot hold one request of
        full length.
        """
        figures = {**self.reading.figures, **self.probe.figures, "boot_s": self.elapsed_s}
        words = {**self.reading.told(), **self.probe.words}
        server = replace(answered, figures=figures, words=words, log=self.candidate.log)
        concurrency = figures.get("concurrency")
        if concurrency is None or concurrency >= 1 or not server.deployment.needs_full_context:
            if server.log is not None and self.launch.good_boots is not None:
                self.launch.good_boots.keep(server.log, *self._deployed, self.candidate.secrets)
            return server
        # Such a request is accepted, never scheduled, and blocks all that come after it (vLLM issue 39734).
        said = f"its KV cache holds {concurrency:.2f} requests of {server.max_model_len or 0:,} tokens"
        remedy = "a smaller max_model_len or a larger KV cache; needs_full_context = false if this is the documented behaviour"
        raise BootError(
            self._explain(said, remedy),
            Observation("overcommits", figures, "kv_cache", kind="kv-cache-too-small", said=said, words=words),
            server.log,
        )

    def _failed(self, exit_code: int | None) -> BootError:
        if exit_code is None and (halted := self.candidate.halted()):
            raise LaunchError(self._explain(f"{halted[0]}: it does nothing until SIGCONT", HALTER))
        evidence = self._evidence(exit_code)
        if exit_code is not None and (orderly := ended_in_order(self.reading, evidence)):
            raise LaunchError(self._explain(orderly, STOPPER))
        found = diagnose(self.reading, evidence)
        because = shown(found.cause, self.candidate.secrets)
        if not self.candidate.ours and not self.probe.refused:
            remedy = "the address, and whether an OpenAI-compatible server answers there"
            raise LaunchError(self._explain(because, remedy))
        if found.kind in _MACHINES or from_outside(self.reading, found):
            raise LaunchError(self._explain(because, found.remedy, found))
        readings = {**self.reading.figures, "boot_s": None}
        seen = replace(found.observe(readings), said=because, words=self.reading.told())
        return BootError(self._explain(because, found.remedy, found), seen, self.candidate.log)

    def _evidence(self, exit_code: int | None) -> Evidence:
        """Return all evidence of how the awaited server ended."""
        refused = self.probe.refused
        timed_out = exit_code is None and refused is None and not self.reading.fatal
        stalled = self.stall.look(time.monotonic()) if timed_out else None
        return replace(
            self.candidate.evidence(exit_code),
            status=refused.status if refused else None,
            refusal=refused.text if refused else None,
            waited_for=f"{self.probe.step} ({self.probe.last or 'no answer'})" if timed_out else None,
            stalled=stalled,
            at_work=self._at_work() if timed_out and stalled is None else None,
            gauges=self.probe.gauges() if timed_out and self.probe.connected else {},
        )

    def _at_work(self) -> str:
        """Return the message that the server was still working at the time limit."""
        silent_s = time.monotonic() - self.stall.moved_s
        moved = (
            f"{self.stall.last} changed {duration(silent_s)} earlier"
            if self.stall.last
            else "the server had just started"
        )
        return f"too slow here: not ready within {duration(self.boot_s)}, and {moved}"

    def _cannot_be_asked(self, found: Unaskable) -> str:
        name = self.launch.deployment.name
        rows = [f"{name} did not become ready", *str(found).splitlines(), f"  after    {duration(self.elapsed_s)}"]
        return "\n".join([*rows, f"  again    {self.candidate.again}"])

    @property
    def _deployed(self) -> tuple[str, str]:
        return self.launch.backend.name, self.launch.deployment.name

    def _differences(self) -> list[str]:
        """Return the first differences from the last good boot of this deployment."""
        log, good = self.candidate.log, self.launch.good_boots
        if log is None or good is None:
            return []
        found = good.compared(self.reading, log, *self._deployed)
        if len(found) <= _MOST_DIFFERENCES:
            return found
        more = f"{len(found) - _MOST_DIFFERENCES} more: longctx diagnose {log} --good {good.path(*self._deployed)}"
        return [*found[:_MOST_DIFFERENCES], more]

    def _explain(self, because: str, remedy: str, found: Diagnosis | None = None) -> str:
        candidate = self.candidate
        rows = [
            f"{self.launch.deployment.name} did not become ready",
            f"  after    {duration(self.elapsed_s)} of {duration(self.boot_s)}",
            f"  because  {because[:_WIDEST]}",
            *(
                f"  {word:<8} {shown(line, candidate.secrets)[:_WIDEST]}"
                for word, line in (found.rows() if found else ())
            ),
        ]
        if candidate.log is not None:
            if found is not None:
                rows += [f"  differs  {shown(line, candidate.secrets)[:_WIDEST]}" for line in self._differences()]
            rows += [f"  log      {candidate.log}, its last lines:"]
            rows += [f"             {line}" for line in tail(candidate.log, candidate.secrets)]
        return "\n".join([*rows, f"  try      {remedy}", f"  again    {candidate.again}"])


def ended_in_order(reading: LogReader, evidence: Evidence) -> str:
    """
    Return the message that the server ended, or is ending, without an error; empty if log and *evidence* do not show
    this.
    """
    if assess(reading, evidence)[0] != "stopped":
        return ""
    code = "" if evidence.exit_code is None else f" (exit code {evidence.exit_code})"
    return f"it shut down in order{code}, as when SIGTERM or SIGINT asks it or its engine to"


def how_it_ended(exit_code: int, *, oom_killed: bool | None) -> str:
    """
    Return, as text, how a server that did not become ready ended: its exit code, and what is known about memory.

    >>> how_it_ended(137, oom_killed=False)
    'signal 9 ended the process, which was not out of memory'
    """
    if oom_killed:
        return f"its container reached its memory limit, and the kernel ended it (OOMKilled, exit code {exit_code})"
    if exit_code > 128:
        looked = (
            ", as the kernel does when the host runs out of memory"
            if oom_killed is None
            else ", which was not out of memory"
        )
        return f"signal {exit_code - 128} ended the process{looked if exit_code == 137 else ''}"
    return f"the process exited with code {exit_code}"


def tail(log: Path, secrets: tuple[str, ...] = (), lines: int = _TAIL_LINES) -> list[str]:
    """
    Return the last *lines* of the *log* of a server that did not become ready, masked and shortened. Only the file's
    end is read.
    """
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode("utf-8", "replace")
    return [shown(line, secrets)[:240] for line in text.splitlines() if line.strip()][-lines:]
