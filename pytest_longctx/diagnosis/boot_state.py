"""The state of one boot according to its log: figures, phase, possible causes, first error, signs of progress."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_longctx.diagnosis.parsing.records import Record
from pytest_longctx.diagnosis.signatures import Phase, Place, Signature
from pytest_longctx.diagnosis.tracebacks import Trace
from pytest_longctx.observation import Kind

_ALIVE = re.compile(
    r'" 200(?: OK)?\b|\b(?:POST|GET) /\S* \S+ 200$|(?:^|: )Success$|\| 200 \|.*\| (?:POST|GET) '
    r'|\bstatus=200 method="POST"|gen throughput \(token/s\)|Avg generation throughput: (?!0\.0)'
)
_ALIVE_WORDS: Final = ("200", "throughput", "Success")
_FAILED_WORDS: Final = ("500", " error: ", "failed during generation")
"""Every line that the pattern matches has one of these texts. The search for them is faster."""
_GET: Final = re.compile(r"\b(?:GET|HEAD) ")
_WAITING = re.compile(
    r"Avg generation throughput: 0\.0 tokens/s, Running: 0 reqs, (?:Swapped: 0 reqs, Pending|Waiting): [1-9]"
)
"""Statistics of an engine that has requests and works on none."""
_CHAT = re.compile(r'"POST /v1/chat/completions[^"]*" 200\b')
_LAST_LINES: Final = 3
"""Lines that may follow the last exception of a log, such as empty ones."""
_CAUGHT_WITHIN: Final = 64
"""A caught traceback begins within this number of lines after its announcement, even if other ranks log between."""
_CUT_REQUESTS = re.compile(r"aborting in-flight requests count=(\d+)|Remaining number of requests (\d+)")
_SERVER_ERROR = re.compile(
    r'"POST [^"]*" 500\b|\bPOST /\S* \S+ 500$|\| 500 \|.*\| POST '
    r"|^(?:Server|Template) error: |^Request failed during generation: "
)
"""Answers with status 500 in an access log, and messages of TGI's router (router/src/infer) about a failed request."""
NATIVE: Final = ("native-assertion", "thread-panicked", "ended-by-signal", "server-ended")
"""Summaries that are the first error themselves if no other line is."""


_PANIC: Final = re.compile(
    r"^\s*thread '[^']*' (?:\(\d+\) )?panicked at |^ggml_vulkan: Failed to allocate pinned memory"
)
_PANICKED: Final = re.compile(r"panicked at \S+:\d+:\d+:\s*$|pinned memory\.\s*$")
"""A line whose message is in the next line: the place of a panic of Rust; a report of ggml that it could not pin memory."""
_SIZES_WITHIN: Final = 20
"""Lines after a failure that may contain its sizes."""
_SAME_WITHIN: Final = 200
"""The traceback of a failure ends within this number of lines after the runtime's line about the failure."""
_MOST_CANDIDATES: Final = 64
SIZES_DUE: Final = 2
"""The attention of a boot that expects sizes: no line is passed over."""


@dataclass(slots=True)
class Failure:
    """A line that names a cause, or that reports a failure without its cause."""

    signature: Signature
    line: str
    metrics: dict[str, float]
    words: dict[str, str]
    phase: Phase
    place: Place | None = None
    """The place in the program, from the traceback."""
    silent: bool = False
    """Whether no error was logged before it."""
    order: int = field(default=0, compare=False)
    """Number of the line."""
    time: str = ""
    process: str = ""
    rank: str = ""
    repeated: bool = False
    """Whether the failure is only repeated in a line about the end of a process. A separate line about it has precedence."""
    noticed: bool = False
    """Whether the line has a lower level than its signature: the engine caught the exception and logged it as a notice."""

    @property
    def kind(self) -> Kind:
        """Class of the failure. For a signature that only reports a lack of memory, the class of its place or phase."""
        if self.place:
            return self.place.kind
        if self.phase == "request" and self.signature.kind in _BEFORE_REQUESTS:
            return "gpu-oom-request"
        if self.signature.kind == "gpu-oom" and self.signature.phase is None:
            return _OOM_IN.get(self.phase, "gpu-oom")
        return self.signature.kind

    @property
    def remedy(self) -> str:
        """Remedy of the failure: that of its place in the traceback if the place has one, otherwise that of its signature."""
        return (self.place and self.place.remedy) or self.signature.remedy


_OOM_IN: Final[dict[Phase, Kind]] = {
    "load": "gpu-oom-weights",
    "profile": "gpu-oom-profile",
    "compile": "gpu-oom-profile",
    "kv_cache": "gpu-oom-kv",
    "graphs": "gpu-oom-graphs",
    "serve": "gpu-oom-request",
    "request": "gpu-oom-request",
}


_BEFORE_REQUESTS: Final[tuple[Kind, ...]] = ("gpu-oom-profile", "gpu-oom-graphs", "gpu-oom-weights")
"""Classes of a failed allocation before the first request. If the server serves, the same line is about a request."""


@dataclass(slots=True)
class FirstError:
    """The first error of a log, for failures without a signature."""

    text: str | None = None
    """The last line of the first traceback."""
    complaint: str | None = None
    """The first line at level ERROR or above, for logs without a traceback."""
    ended_at: int = 0
    """Number of the line of the last exception that no code caught."""
    before: tuple[str, ...] = ()
    """The lines of the traceback before it."""
    phase: Phase | None = None
    """The phase that its traceback shows."""
    caught: str | None = None
    """The first exception that the engine caught, such as the exception of a failed request."""
    native: str | None = None
    """The first line in which native code, or a shell, reports the end of a process."""
    echo: str | None = None
    """The first exception that only reports a failure of another process, such as a lost peer."""

    def ends(self, lines: int) -> bool:
        """Return whether a log of *lines* lines ends with an uncaught exception, so that the process has ended."""
        return self.text is not None and lines - self.ended_at <= _LAST_LINES


@dataclass(slots=True)
class Boot:
    """One boot of one server, as its log describes it."""

    figures: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    phase: Phase = "start"
    candidates: list[Failure] = field(default_factory=list)
    summary: Failure | None = None
    notices: Counter[str] = field(default_factory=Counter)
    errors: FirstError = field(default_factory=FirstError)
    told: bool = False
    """Whether its lines contain a fact; programs beside an engine log none."""
    fatal_at: int | None = None
    alive_at: int = 0
    worked_at: int = 0
    """The line of the last sign of work on a request; an answer to a probe is none."""
    served_at: int | None = None
    answered: int = 0
    chats: int = 0
    """Chat requests that were answered."""
    idle_with_requests: int = 0
    """Statistics at the end of the log, one after the other, that count waiting requests and none that runs."""
    failed_requests: int = 0
    cut_requests: int = 0
    traces: dict[tuple[str, str, str], Trace] = field(default_factory=dict)
    caught: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Whether a traceback that begins now was announced as caught, by source and process."""
    caught_until: int = 0
    """Up to this line, each line of such a process is read. The first one that does not begin a traceback ends this."""
    sizes_due: int = 0
    sized: Failure | None = None
    panic: Record | None = None
    """The place of a panic whose message is due."""
    noticed_at: dict[str, int] = field(default_factory=dict)
    """The line of the last notice, by its id."""

    def catches(self, owner: tuple[str, str], line: int | None) -> None:
        """Record whether *line* of process *owner* announces a caught traceback; *line* is None for any other line."""
        if line is not None:
            self.caught[owner], self.caught_until = True, line + _CAUGHT_WITHIN
        elif self.caught.pop(owner, False) and not self.caught:
            self.caught_until = 0

    def joined(self, record: Record) -> Record:
        """
        Return *record*, the boot's next log line. A panic's message is joined to the previous line, which has the
        panic's place.
        """
        place, self.panic = self.panic, None
        if place is not None and record.text.strip():
            line = place.whole.strip()
            self.summary = None if self.summary is not None and self.summary.line == line else self.summary
            self.errors.native = None if self.errors.native == line else self.errors.native
            text = record.text.strip()
            return replace(place, text=f"{place.text} {text}", line=f"{line} {text}")
        if _PANIC.match(record.text) is None:
            return record
        begun = replace(record, text=record.text.strip())
        self.panic = begun if _PANICKED.search(begun.text) else None
        return begun

    def attention(self, lines: int) -> int:
        """
        Return how closely the boot's log is read after *lines* lines.

        `SIZES_DUE` while the sizes of a failure are expected; 1 inside a traceback or a panic, and before line
        `caught_until`; else 0.
        """
        return SIZES_DUE if self.sizes_due else bool(self.traces or self.panic) or lines < self.caught_until

    def closes(self, trace: Trace) -> None:
        """Remove *trace*, a traceback that has ended, from the open tracebacks."""
        self.traces = {key: each for key, each in self.traces.items() if each is not trace}

    def sums_up(self, made: Failure, line: int) -> None:
        """Record that a log *line* reports a failure without its cause."""
        survivable = made.signature.survivable
        if made.signature.id in NATIVE and self.errors.native is None:
            self.errors.native = made.line
        if not survivable and self.fatal_at is None:
            self.fatal_at = line
        better = self.summary is not None and "because" in made.words and "because" not in self.summary.words
        if self.summary is None or better or (self.summary.signature.survivable and not survivable):
            self.summary = made

    def keeps(self, made: Failure, trace: Trace | None) -> None:
        """
        Record a cause that the log names.

        An exception around another one, in *trace*, replaces it and keeps its sizes. So does the message below a
        heading.
        """
        inner = trace.failure if trace is not None else None
        if isinstance(inner, Failure) and inner in self.candidates and _replaces(made, inner, trace):
            made.metrics, made.order, made.time = {**inner.metrics, **made.metrics}, inner.order, inner.time
            self.candidates[self.candidates.index(inner)] = made
        elif len(self.candidates) < _MOST_CANDIDATES or not any(
            each.signature.id == made.signature.id for each in self.candidates
        ):
            self.candidates.append(made)
        if trace is not None:
            trace.failure = trace.failure if trace.failure in self.candidates else made
        if made.signature.then:
            self.sizes_due, self.sized = _SIZES_WITHIN, made

    @property
    def inside(self) -> bool:
        """Whether a traceback has begun and not ended."""
        return any(not trace.done for trace in self.traces.values())

    @property
    def reached(self) -> Phase:
        """The phase that the boot has reached. A log that begins late has no marker of the phase, but may have requests."""
        return "serve" if self.phase == "start" and (self.alive_at or self.failed_requests) else self.phase

    @property
    def summary_counts(self) -> bool:
        """Whether the boot has a failure summary that does not only follow from another process's end."""
        return self.summary is not None and not self.summary.signature.survivable

    @property
    def cause(self) -> Failure | None:
        """
        The most probable cause of the boot's failure: a failure that no engine survives, else the earliest; None
        without a failure.
        """
        alive = self._on_the_way(
            [each for each in self.candidates if not self._survived(each) and not self._came_late(each)]
        )
        fatal = [each for each in alive if not each.signature.weak and not each.signature.survivable]
        for some in (
            [each for each in fatal if not each.repeated],
            fatal,
            [each for each in alive if not each.signature.weak],
            alive,
        ):
            if some:
                return _placed(_earliest([each for each in some if not each.signature.heading] or some), some)
        return None

    def _on_the_way(self, some: list[Failure]) -> list[Failure]:
        """
        Return those of the failures *some* that may have ended the boot.

        Notices are removed if another failure remains, or if the log has an exception of unknown wording. Failures
        before the server was ready are removed if a later one remains.
        """
        told = [each for each in some if not each.noticed] or (some if self.errors.text is None else [])
        if self.served_at is None:
            return told
        return [each for each in told if each.order > self.served_at] or told

    def phase_of(self, found: Signature) -> Phase | None:
        """
        Return the phase of signature *found*; None if it has none. A server that serves has started, and allocates for
        requests.
        """
        past = found.kind in _BEFORE_REQUESTS or found.phase in ("start", "config")
        return "request" if self.phase == "serve" and past else found.phase

    def lives(self, text: str, line: int, times: int) -> bool:
        """
        Record a log line that shows a working server, or an answer with status 500. Return whether *text* is such a
        line.
        """
        self._starves(text, times)
        if any(word in text for word in _ALIVE_WORDS) and _ALIVE.search(text):
            self.chats += times * bool(_CHAT.search(text))
            self.alive_at = line
            if _GET.search(text) is None:
                self.answered, self.worked_at = self.answered + times, line
            return True
        if any(word in text for word in _FAILED_WORDS) and _SERVER_ERROR.search(text):
            self.failed_requests += times
            return True
        return False

    def cuts(self, text: str) -> None:
        """Record how many requests the server leaves unanswered when it stops, if *text* states the number."""
        if match := _CUT_REQUESTS.search(text):
            self.cut_requests = max(self.cut_requests, int(match[1] or match[2]))

    def _starves(self, text: str, times: int) -> None:
        """Count consecutive statistics in which requests wait and none runs. Any other sign of work resets the count."""
        if _WAITING.search(text) and (self.served_at is not None or self.alive_at):
            self.idle_with_requests += times
        elif "throughput" in text or '"POST /v1/' in text:
            self.idle_with_requests = 0

    @property
    def holds_no_request(self) -> bool:
        """Whether the KV cache is smaller than one request of the context length in the log."""
        cache, context = self.figures.get("kv_cache_tokens"), self.figures.get("max_model_len")
        return cache is not None and context is not None and cache < context

    def _came_late(self, found: Failure) -> bool:
        """Return whether *found* is a guess about the configuration, in a log that begins long after the server was ready."""
        served = self.notices["request-failed"] or self.failed_requests
        return bool(found.signature.weak and found.signature.kind == "config" and not self.told and served)

    @property
    def answers_nothing(self) -> bool:
        """Whether requests failed and none was answered, as far as the log shows."""
        late = not self.told and self.notices["request-failed"] and self.errors.text is not None and not self.alive_at
        return bool(self.failed_requests and not self.answered) or bool(late)

    def _survived(self, found: Failure) -> bool:
        """Return whether the server worked after the failure *found*."""
        if found.kind == "chat-template-missing":
            warmed_up = self.served_at is not None and found.order < self.served_at < self.alive_at
            return self.chats > 0 or warmed_up
        if found.kind == "cluster-resources" and self.phase not in ("start", "config"):
            return True
        if found.signature.survivable or self.fatal_at is not None:
            return False
        return self.alive_at > found.order


def _replaces(made: Failure, inner: Failure, trace: Trace | None) -> bool:
    """Return whether the cause *made* replaces *inner*, an earlier cause from the same traceback, *trace*."""
    around = trace is not None and trace.chained and made.signature.wrapper
    return around or (inner.signature.heading and not made.signature.heading)


def _earliest(some: list[Failure]) -> Failure:
    """Return the earliest failure by time stamp; without comparable time stamps the first in the log."""
    first = some[0]
    for each in some[1:]:
        if each.time and len(each.time) == len(first.time) and each.time < first.time:
            first = each
    return first


def _placed(found: Failure, some: list[Failure]) -> Failure:
    """Return *found*, or a line soon after it in a traceback that reports the same lack of GPU memory with its place."""
    if found.place is not None or found.kind != "gpu-oom":
        return found
    soon = (each for each in some if each.place is not None and 0 <= each.order - found.order <= _SAME_WITHIN)
    return next((each for each in soon if each.signature.id == found.signature.id), found)


def chosen(boots: Mapping[str, Boot], earlier: Mapping[str, list[Boot]]) -> Boot:
    """Return the boot of a log to report: each server's last boot and, of several servers, the first whose boot failed."""
    told = {name: each for name, each in boots.items() if each.told} or boots
    shown = [_shown(each, earlier.get(name, [])) for name, each in told.items()]
    failed = [(found.order, number) for number, each in enumerate(shown) if (found := each.cause or each.summary)]
    return shown[min(failed)[1]] if failed else shown[0]


def rooted(boots: Mapping[str, Boot], boot: Boot) -> Failure | None:
    """Return the kernel's or the driver's line about a hardware fault behind the failure of *boot*; None without one."""
    found = [each for some in boots.values() for each in some.candidates if each.signature.root]
    failed = boot.summary is not None or boot.cause is not None
    return _earliest(found) if found and failed else None


def _shown(boot: Boot, before: list[Boot]) -> Boot:
    """Return the boot to report: *boot*, or the failed boot before it if *boot* was only starting when the log ended."""
    begun = not (boot.cause or boot.summary or boot.served_at or boot.alive_at)
    return before[-1] if begun and before and (before[-1].cause or before[-1].summary) else boot
