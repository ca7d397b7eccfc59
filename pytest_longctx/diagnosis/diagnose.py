"""
Diagnose why a server failed, from its log and its end. Pure: equal evidence gives an equal diagnosis.

A line that names a cause counts if the engine, or the runtime below it, wrote it. Without such a line the exit code,
the kernel's evidence and the server's gauges decide. Without any of these the class is unknown, and the first error is
quoted.
"""

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pytest_longctx.diagnosis import engine_error, named_cause
from pytest_longctx.diagnosis.boot_state import Failure
from pytest_longctx.diagnosis.log_evidence import ProcessEnd, signal_name, silent, what_would_tell
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.signatures import PHASES, Catalogue, Phase, figures
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Kind, Observation, Outcome
from pytest_longctx.units import quantity

Confidence = Literal["certain", "likely", "unknown"]
"""``certain``: a line or a counter states the cause; ``likely``: no other cause fits the evidence better."""
State = Literal["healthy", "stopped", "unfinished", "impaired", "failed"]
"""``unfinished``: the log ends before the server is ready, without a failure; ``impaired``: it serves, its log has a fault."""

_PROXY = (413, 502, 504)
"""Statuses that no engine sends, but proxies between client and server do."""
_SEVERAL = 3
"""From this number on a notice counts. Every long boot has one or two of them."""
_HANGS = ("hang", "hang-workers", "hang-admission")
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGKILL, 128 + signal.SIGTERM)
"""Exit codes of a process that another one ended."""
_TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""A parent ends its children with this signal too, so a logged signal of a child does not prove a stop from outside."""
_NO_KILL = "the kernel counted no out-of-memory kill"
_DAEMON = (
    "a memory daemon outside the kernel (systemd-oomd, earlyoom) ends processes in this way too, and logs it itself"
)
_NOT_LIMITED = "the container's state: not OOMKilled"
_NO_ERROR: Final = "unknown: no line of the log is one that is known as an error"
_UNREAD = "the kernel's record of out-of-memory kills cannot be read here"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence of a server's end, beside its log. ``None`` means not observed, never zero."""

    exit_code: int | None = None
    """As shells report it: 128 + N for signal N, or -N; None while the process runs."""
    oom_killed: bool | None = None
    """The OOM flag of the container's state."""
    memory_kills: tuple[str, ...] | None = None
    """The kernel's evidence of out-of-memory kills; empty: searched, and none found."""
    killed_gib: float | None = None
    process_ends: tuple[ProcessEnd, ...] = ()
    """Processes of the server that signals ended, in that order; empty if none was seen."""
    status: int | None = None
    """HTTP status of a refusal."""
    refusal: str | None = None
    """The text of that refusal."""
    waited_for: str | None = None
    """The step that the server had not completed when the time limit ended."""
    stalled: str | None = None
    """States for how long no figure had changed, if that was too long; None: it was not too long, or not observed."""
    at_work: str | None = None
    """States that the server was still working when the time limit ended."""
    gauges: Mapping[str, float | None] = field(default_factory=dict)
    """The server's gauges at the last query: ``running``, ``waiting``."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The reason why a server failed or did not start."""

    kind: Kind
    outcome: Outcome | None
    """None if nothing follows from the evidence."""
    phase: Phase
    cause: str
    remedy: str
    confidence: Confidence
    signature: str | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    doubt: str = ""
    """Why the diagnosis is not certain."""

    @property
    def title(self) -> str:
        """Class, signature, phase and confidence of the diagnosis in one line."""
        name = f" ({self.signature})" if self.signature else ""
        sure = "" if self.confidence == "unknown" else f", {self.confidence}"
        return f"{self.kind}{name} in phase {self.phase} ({PHASES[self.phase]}){sure}"

    def observe(self, readings: Mapping[str, float | None]) -> Observation:
        """Return the diagnosis as evidence for a verdict, with all other facts of the boot's log."""
        metrics = {**readings, **self.sizes}
        return Observation(self.outcome, metrics, self.phase, self.signature, self.kind, self.cause)

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the rows of a printed diagnosis, each with its label: class, doubt, sizes, evidence."""
        yield "class", self.title
        if self.doubt:
            yield "doubt", self.doubt
        if self.sizes:
            shown = list(self.sizes.items())[:6]
            yield "sizes", ", ".join(f"{name} {quantity(value, MEASURES[name].unit)}" for name, value in shown)
        for line in self.evidence:
            yield "seen", line


def diagnose(reading: LogReader, given: Evidence) -> Diagnosis:
    """Return why the server failed, from its log *reading* and *given*, the evidence of its end."""
    given = _joined(reading, given)
    cause = reading.cause
    if cause is not None and not (cause.signature.weak and (_memory(reading, given) or _was_killed(cause, given))):
        return _named(reading, cause)
    for rule in (_starved, _stopped, _turned_down, _stuck):
        if made := rule(reading, given):
            return made
    return _asserted(reading) or _unknown(reading, given)


def assess(reading: LogReader, given: Evidence) -> tuple[State, Diagnosis | None]:
    """
    Return the state of a server by its log *reading* and the evidence *given*, and the diagnosis; None for a healthy
    one.
    """
    joined = _joined(reading, given)
    boot, code = reading.boot, joined.exit_code
    ended = boot.fatal_at is not None or code not in (None, 0)
    found = reading.cause
    if boot.phase == "stop" and found is None and boot.summary is None and code in (None, 0, -2, 130):
        return "stopped", None
    if found is not None or ended or boot.summary_counts or _memory(reading, joined) or _stops(reading, joined):
        impaired = found is not None and found.signature.survivable and not ended
        return ("impaired" if impaired else "failed"), diagnose(reading, given)
    if made := _idle(reading):
        return "impaired", made
    if boot.served_at is not None or boot.alive_at:
        return "healthy", None
    return ("failed", diagnose(reading, given)) if boot.errors.ends(reading.lines) else ("unfinished", None)


def explain_refusal(catalogue: Catalogue, text: str) -> tuple[str, Kind, dict[str, float]] | None:
    """Return id, class and sizes of a refused request by its *text*; None if no catalogue entry matches."""
    for known in catalogue.refusal:
        if match := re.search(known.regex, text):
            return known.id, known.kind, figures(match.groupdict())
    return None


def _joined(reading: LogReader, given: Evidence) -> Evidence:
    """Return *given*, completed from lines of the kernel, systemd, a container or Kubernetes in the log."""
    seen = reading.evidence
    return replace(
        given,
        exit_code=given.exit_code if given.exit_code is not None else seen.exit_code,
        oom_killed=False if given.oom_killed is None and seen.denied else given.oom_killed,
        killed_gib=given.killed_gib if given.killed_gib is not None else seen.killed_gib,
    )


def _memory(reading: LogReader, given: Evidence) -> bool:
    return bool(reading.evidence.memory or given.oom_killed)


def _named(reading: LogReader, found: Failure) -> Diagnosis:
    """Return the diagnosis for a log line that names the cause."""
    known, boot = found.signature, reading.boot
    sizes = found.metrics or named_cause.allocation_before(boot.candidates, found)
    phase, line = named_cause.phase_of(reading, found), named_cause.line_of(reading, found)
    made = Diagnosis(
        *(found.kind, known.outcome, phase, line, named_cause.remedy_for(reading, found)),
        confidence="likely" if known.weak else "certain",
        signature=known.id,
        sizes=sizes,
        doubt=named_cause.doubt_of(found, ended=boot.fatal_at is not None),
    )
    room = named_cause.refused_with_room(found, sizes)
    return replace(made, kind="device", confidence="likely", doubt=room, remedy=named_cause.WITH_ROOM) if room else made


def _starved(reading: LogReader, given: Evidence) -> Diagnosis | None:
    """Return the diagnosis of an out-of-memory kill by the kernel or a container's state; None without one."""
    # The counter alone covers all processes of the host.
    kills = (*(given.memory_kills or ()), *reading.evidence.memory)
    went = _signal(reading, given) is not None or named_cause.silent(reading)
    if not given.oom_killed and not reading.evidence.memory and not (kills and went):
        return None
    end = "it still runs" if given.exit_code is None else f"exit code {given.exit_code}"
    seen = [*([f"the container's state: OOMKilled, {end}"] if given.oom_killed else []), *kills]
    sizes = {} if given.killed_gib is None else {"killed_gib": given.killed_gib}
    sure: Confidence = (
        "certain"
        if given.oom_killed or reading.evidence.memory or any("Killed process" in line for line in kills)
        else "likely"
    )
    made = _ended(reading, "host-oom", "the host's out-of-memory killer ended it", sure, seen, sizes)
    return replace(made, outcome="runs out of memory", signature="container-memory-limit") if given.oom_killed else made


def _stopped(reading: LogReader, given: Evidence) -> Diagnosis | None:
    """Return the diagnosis of a server stopped from outside, by its log or by SIGTERM; None for any other."""
    if by := _stops(reading, given):
        return _ended(reading, "killed", "it was stopped from outside", "certain", by)
    number = _signal(reading, given)
    if given.exit_code in _TERMINATED and number == signal.SIGTERM:
        return _ended(reading, "killed", "it was ended by SIGTERM, from outside", "certain", [])
    # Nothing but the kernel's memory killer and another process sends it.
    if number == signal.SIGKILL and given.memory_kills == ():
        seen = [*map(str, given.process_ends[:_SEVERAL]), _NO_KILL]
        who = "it" if given.exit_code in _KILLED else "one of its processes"
        made = _ended(reading, "killed", f"{who} was ended by SIGKILL, from outside", "likely", seen)
        return replace(made, doubt=_DAEMON)
    return None


def _was_killed(cause: Failure, given: Evidence) -> bool:
    """Return whether a process of a watched server was killed; its children then log that they were asked to end."""
    numbers = {-(given.exit_code or 0), (given.exit_code or 0) - 128, *(each.number for each in given.process_ends)}
    return signal.SIGKILL in numbers and given.memory_kills is not None and cause.kind == "killed" and cause.silent


def from_outside(reading: LogReader, found: Diagnosis) -> bool:
    """Return whether, by the diagnosis *found*, an event outside ended the server before the server logged an error."""
    return found.kind == "killed" and (reading.cause is None or reading.cause.silent)


def _signal(reading: LogReader, given: Evidence) -> int | None:
    if reading.cause is not None and _was_killed(reading.cause, given):
        return signal.SIGKILL
    return named_cause.signal_of(reading, given.exit_code, given.process_ends)


def _stops(reading: LogReader, given: Evidence) -> list[str]:
    """Return the evidence of a stop from outside. A probe that failed before the server was ready is no such evidence."""
    boot, killed = reading.boot, given.exit_code in _KILLED
    return reading.evidence.stops(killed=killed, serves=boot.served_at is not None or bool(boot.alive_at))


def _turned_down(reading: LogReader, given: Evidence) -> Diagnosis | None:
    """Return the diagnosis of a server that refuses the request; None for any other."""
    if given.refusal is None:
        return None
    phase: Phase = "request"
    if given.status in _PROXY:
        said, direct = f"HTTP {given.status}, which engines do not send: {given.refusal}", "the server's own address"
        return Diagnosis("proxy", "refuses", phase, said, direct, "likely")
    known = explain_refusal(reading.catalogue, given.refusal)
    if given.status is not None and given.status >= 500:
        return _failing(reading, given.status, given.refusal)
    said = f"it came up but would not generate one token: {given.refusal}"
    advice = "the request's length, model name and the server's log"
    if known is None:
        return Diagnosis("unknown", "refuses", phase, said, advice, "unknown")
    name, kind, sizes = known
    return Diagnosis(kind, "refuses", phase, said, advice, "certain", name, sizes)


def _failing(reading: LogReader, status: int, refusal: str) -> Diagnosis:
    """Return the diagnosis of a server that was ready and answers every request with its own error."""
    logged = reading.errors.text or reading.errors.caught or reading.errors.complaint
    said = f"it came up, and answers every request with HTTP {status}: {refusal}"
    said += f"; its log: {logged}" if logged else ""
    seen = ("one token was asked for again and again, and the answer was the same",)
    advice = "the exception in its log" if logged else "its log, for the exception behind the answer"
    return Diagnosis("server-error", "fails", "request", said, advice, "certain", evidence=seen)


def _stuck(reading: LogReader, given: Evidence) -> Diagnosis | None:
    """Return the diagnosis of a server that hung, or was too slow, at the time limit; None otherwise."""
    if given.waited_for is None:
        return None
    if given.at_work is not None:
        said = f"{given.at_work}; waiting for {given.waited_for}"
        return Diagnosis("too-slow", None, reading.phase, said, "a longer timeouts.boot_s in the deployment", "likely")
    said = f"{given.stalled or 'the time was up'} while waiting for {given.waited_for}"
    notices = [(entry.kind, entry.why, count) for entry, count in reading.benign() if entry.kind in _HANGS]
    seen = [f"{why} ({count} times in the log)" for _, why, count in notices]
    kind: Kind = next((known for known, _, count in notices if count >= _SEVERAL), "hang")
    if given.gauges.get("waiting") and given.gauges.get("running") == 0:
        kind = "hang-admission"
        seen.append("the server's gauges: requests wait and none runs")
    outcome: Outcome = "is not admitted" if kind == "hang-admission" else "hangs"
    advice = "the log; a longer timeouts.boot_stall_s in the deployment if it was at work in silence"
    return Diagnosis(kind, outcome, reading.phase, said, advice, "likely", evidence=tuple(seen))


def _asserted(reading: LogReader) -> Diagnosis | None:
    """Return the diagnosis of a check or operation that failed in the engine or below it; None for any other first error."""
    found = engine_error.engine_error(reading.boot)
    if found is None:
        return None
    made = _ended(reading, *found, "likely", [])
    phase = made.phase if made.phase == "request" else reading.errors.phase or made.phase
    return replace(made, phase=phase, outcome="asserts", remedy=engine_error.REMEDY, doubt=engine_error.DOUBT)


def _unknown(reading: LogReader, given: Evidence) -> Diagnosis:
    """Return the diagnosis of an unknown cause, which quotes the first error of the log."""
    first = reading.errors.text or reading.errors.complaint or reading.errors.native or reading.errors.caught
    number = _signal(reading, given)
    if number is not None:
        how = f"ended by {signal_name(number)}"
        said = f"unknown: {how}, here is the first error: {first}" if first else f"unknown: {how}, no cause in the log"
        looked = _NO_KILL if given.memory_kills is not None else _NOT_LIMITED if given.oom_killed is False else _UNREAD
        evidence = [*map(str, given.process_ends[:_SEVERAL]), *([looked] if number == signal.SIGKILL else [])]
        return replace(_ended(reading, "unknown", said, "unknown", evidence), doubt=what_would_tell(number))
    how = "" if given.exit_code is None else f"the process exited with code {given.exit_code}; "
    first = first or reading.errors.echo or (reading.summary.line if reading.summary else None)
    said = f"unknown, here is the first error: {first}" if first else _NO_ERROR
    if reading.summary is not None:
        if named_cause.silent(reading):
            said = silent(told=reading.boot.told)
            looked = _NO_KILL if given.memory_kills is not None else _UNREAD
            return replace(_ended(reading, "unknown", how + said, "unknown", [looked]), doubt=what_would_tell(None))
        return _ended(reading, "unknown", how + said, "unknown", [])
    return Diagnosis("unknown", "dies", reading.phase, how + said, "the log, from its first error on", "unknown")


def _unscheduled(reading: LogReader) -> Diagnosis:
    """Return the diagnosis of a server whose requests wait while none runs: a small KV cache, or an unknown reason."""
    boot = reading.boot
    seen = f"its last {boot.idle_with_requests} statistics count waiting requests, none that runs, and no token"
    if not boot.holds_no_request:
        said = f"unknown: {seen}; no line says why"
        advice = "the stack of the engine's process (py-spy dump), and its log at level DEBUG"
        return Diagnosis("unknown", "is not admitted", "request", said, advice, "unknown")
    sizes = {name: boot.figures[name] for name in ("kv_cache_tokens", "max_model_len")}
    said = f"{seen}; its KV cache holds fewer tokens than the context that it lists"
    advice = "a context length of at most the KV cache's tokens, or a larger KV cache; end the request that waits"
    doubt = "the length of the request that waits is not in the log"
    return Diagnosis("hang-admission", "is not admitted", "request", said, advice, "likely", sizes=sizes, doubt=doubt)


def _idle(reading: LogReader) -> Diagnosis | None:
    """Return the diagnosis of a ready server that does no work for its requests; None for any other."""
    if reading.boot.answers_nothing:
        return _only_refusals(reading)
    if reading.boot.idle_with_requests >= _SEVERAL:
        return _unscheduled(reading)
    return (_asserted(reading) if engine_error.stopped_in_a_step(reading.boot) else None) or _retrying(reading)


def _retrying(reading: LogReader) -> Diagnosis | None:
    """Return the diagnosis of a server whose log ends with a step that is retried; None for any other."""
    boot = reading.boot
    worked_at = max(boot.worked_at, boot.served_at or 0)
    for entry, count in reading.benign():
        up = worked_at or entry.kind not in _HANGS  # workers that compile do not answer either
        if entry.stalls and count >= entry.stalls and boot.noticed_at[entry.id] > worked_at and entry.kind and up:
            said = f"{entry.why} ({count} times in the log), and nothing after it shows that a request was worked on"
            doubt = "the line is harmless where the step succeeds later; the log ends before that"
            phase = boot.reached if entry.kind == "cluster-resources" else "request"
            return Diagnosis(entry.kind, "hangs", phase, said, entry.remedy, "likely", entry.id, doubt=doubt)
    return None


def _only_refusals(reading: LogReader) -> Diagnosis:
    """Return the diagnosis of a server that is ready and answers no request."""
    first = reading.errors.text or reading.errors.caught or reading.errors.complaint
    if first and (known := named_cause.of_request(reading.catalogue, first)):
        made = Diagnosis(known.kind, "fails", "request", first, known.remedy, "likely", known.id)
        return replace(made, doubt=named_cause.OF_REQUESTS)
    because = f", the first error: {first}" if first else ", and no error in the log"
    count = reading.boot.failed_requests or reading.notices["request-failed"]
    said = f"unknown: requests failed (lines of the log about it: {count}), and none was answered{because}"
    return Diagnosis("unknown", "fails", "request", said, "the traceback of one such request", "unknown")


_REMEDIES: Mapping[Kind, str] = {
    "host-oom": "less host memory: fewer requests (vLLM: --max-num-seqs, SGLang: --max-running-requests), a smaller cache "
    "outside the GPU, whose size is for each rank, or more memory for the host or container",
    "killed": "who sends signals here: an orchestrator's probe, a time limit, a person; the kernel log names memory kills",
}


def _ended(
    reading: LogReader,
    kind: Kind,
    cause: str,
    confidence: Confidence,
    evidence: list[str],
    sizes: Mapping[str, float] | None = None,
) -> Diagnosis:
    """Return the diagnosis of a server of which an end, or the end of a process, was observed."""
    found = reading.summary
    remedy = _REMEDIES.get(kind) or (found.remedy if found else "the log, from its first error on")
    if found is None:
        phase = named_cause.when(reading.boot.reached, told=reading.boot.told)
        return Diagnosis(kind, "dies", phase, cause, remedy, confidence, None, sizes or {}, tuple(evidence))
    seen = (f"log: {found.line}", *evidence)
    merged = {**found.metrics, **(sizes or {})}
    known, phase = found.signature, named_cause.phase_of(reading, found)
    return Diagnosis(kind, known.outcome, phase, cause, remedy, confidence, known.id, merged, seen)
