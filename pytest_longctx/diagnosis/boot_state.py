"""One boot of one server, as its log tells it: figures, phase, candidates for a cause, first error, signs of life."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_longctx.diagnosis.signatures import Phase, Place, Signature
from pytest_longctx.diagnosis.tracebacks import Trace
from pytest_longctx.observation import Kind

_ALIVE = re.compile(
    r'" 200(?: OK)?\b|\b(?:POST|GET) /\S* \S+ 200$|: Success$|gen throughput \(token/s\)|Avg generation throughput: (?!0\.0)'
)
_SERVER_ERROR = re.compile(r'"POST [^"]*" 500\b')


@dataclass(slots=True)
class Failure:
    """A line that names a cause, or that something failed."""

    signature: Signature
    line: str
    metrics: dict[str, float]
    words: dict[str, str]
    phase: Phase
    place: Place | None = None
    """Where in the program it happened, as its traceback says."""
    silent: bool = False
    """Whether nothing had been logged as an error before it."""
    order: int = field(default=0, compare=False)
    """The number of its line."""
    time: str = ""
    process: str = ""
    rank: str = ""

    @property
    def kind(self) -> Kind:
        """The class; that of its place, or of its phase, where the signature knows no more than that memory ran out."""
        if self.place:
            return self.place.kind
        if self.signature.kind == "gpu-oom" and self.signature.phase is None:
            return _OOM_IN.get(self.phase, "gpu-oom")
        return self.signature.kind

    @property
    def remedy(self) -> str:
        """What to try."""
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


@dataclass(slots=True)
class FirstError:
    """What a log's first error was, for one that no signature knows."""

    text: str | None = None
    """What Python's first traceback ends in."""
    complaint: str | None = None
    """The first line that was logged as an error, for logs without a traceback."""
    before: tuple[str, ...] = ()
    """The lines of the traceback before it."""
    caught: str | None = None
    """The first exception that the engine caught: of a request, for one."""


@dataclass(slots=True)
class Boot:
    """One boot of one server in the log."""

    figures: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    phase: Phase = "start"
    candidates: list[Failure] = field(default_factory=list)
    summary: Failure | None = None
    notices: Counter[str] = field(default_factory=Counter)
    errors: FirstError = field(default_factory=FirstError)
    told: bool = False
    """Whether it told any fact: what runs beside an engine tells none."""
    fatal_at: int | None = None
    alive_at: int = 0
    served_at: int | None = None
    answered: int = 0
    failed_requests: int = 0
    cut_requests: int = 0
    traces: dict[tuple[str, str, str], Trace] = field(default_factory=dict)
    caught: dict[tuple[str, str], bool] = field(default_factory=dict)
    sizes_due: int = 0
    sized: Failure | None = None

    @property
    def inside(self) -> bool:
        """Whether a traceback has begun and not ended."""
        return any(not trace.done for trace in self.traces.values())

    @property
    def reached(self) -> Phase:
        """How far it has come: a log that begins late has no marker of a phase, but may have traffic."""
        return "serve" if self.phase == "start" and self.alive_at else self.phase

    @property
    def summary_counts(self) -> bool:
        """Whether something was seen to fail that is more than an echo of another's end."""
        return self.summary is not None and not self.summary.signature.survivable

    @property
    def cause(self) -> Failure | None:
        """What names the cause best: what no engine survives before what it does, the earliest first."""
        alive = [each for each in self.candidates if not self._survived(each)]
        for some in (
            [each for each in alive if not each.signature.weak and not each.signature.survivable],
            [each for each in alive if not each.signature.weak],
            alive,
        ):
            if some:
                return _earliest(some)
        return None

    def lives(self, text: str, line: int, times: int) -> bool:
        """Take in a sign of life, or an answer of status 500; whether *text* is either."""
        if _ALIVE.search(text):
            self.alive_at = line
            self.answered += times * ('"POST /v1/' in text)
            return True
        if _SERVER_ERROR.search(text):
            self.failed_requests += times
            return True
        return False

    def _survived(self, found: Failure) -> bool:
        """Whether the server was well after it."""
        if found.signature.survivable or self.fatal_at is not None:
            return False
        return self.alive_at > found.order


def _earliest(some: list[Failure]) -> Failure:
    """The first by time where the times can be compared, else the first in the log."""
    first = some[0]
    for each in some[1:]:
        if each.time and len(each.time) == len(first.time) and each.time < first.time:
            first = each
    return first


def chosen(boots: Mapping[str, Boot], earlier: Mapping[str, list[Boot]]) -> Boot:
    """The boot that counts: of a server and not of what runs beside it, the last, and the first that failed where one did."""
    told = {name: each for name, each in boots.items() if each.told} or boots
    shown = [_shown(each, earlier.get(name, [])) for name, each in told.items()]
    failed = [(found.order, number) for number, each in enumerate(shown) if (found := each.cause or each.summary)]
    return shown[min(failed)[1]] if failed else shown[0]


def rooted(boots: Mapping[str, Boot], boot: Boot) -> Failure | None:
    """What the kernel or the driver says of the hardware, where *boot* failed: the engine's own failure follows from it."""
    found = [each for some in boots.values() for each in some.candidates if each.signature.root]
    failed = boot.summary is not None or boot.cause is not None
    return _earliest(found) if found and failed else None


def _shown(boot: Boot, before: list[Boot]) -> Boot:
    """*boot*, or the one before it where *boot* has only begun when the log ends and that one failed."""
    begun = not (boot.cause or boot.summary or boot.served_at or boot.alive_at)
    return before[-1] if begun and before and (before[-1].cause or before[-1].summary) else boot
