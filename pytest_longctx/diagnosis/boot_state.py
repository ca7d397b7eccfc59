"""The state of one boot according to its log: figures, phase, possible causes, first error, signs of life."""

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
    """A line that names a cause, or reports a failure without one."""

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
    """Its line number."""
    time: str = ""
    process: str = ""
    rank: str = ""

    @property
    def kind(self) -> Kind:
        """The class; for a signature that only says that memory ran out, the class of its place or phase."""
        if self.place:
            return self.place.kind
        if self.signature.kind == "gpu-oom" and self.signature.phase is None:
            return _OOM_IN.get(self.phase, "gpu-oom")
        return self.signature.kind

    @property
    def remedy(self) -> str:
        """The remedy."""
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
    """The first error of a log, for failures without a signature."""

    text: str | None = None
    """The last line of the first traceback."""
    complaint: str | None = None
    """The first line at level ERROR or above, for logs without a traceback."""
    before: tuple[str, ...] = ()
    """The lines of the traceback before it."""
    caught: str | None = None
    """The first exception that the engine caught, such as that of a request."""


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
    """Whether its lines contain a fact; programs beside an engine log none."""
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
    def summary_counts(self) -> bool:
        """Whether a summary reports a failure that does not merely follow from another process's end."""
        return self.summary is not None and not self.summary.signature.survivable

    @property
    def cause(self) -> Failure | None:
        """The most probable cause: first those that no engine survives, then the earliest."""
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
        """Note a sign of life or an answer with status 500. Returns whether *text* is one of these."""
        if _ALIVE.search(text):
            self.alive_at = line
            self.answered += times * ('"POST /v1/' in text)
            return True
        if _SERVER_ERROR.search(text):
            self.failed_requests += times
            return True
        return False

    def _survived(self, found: Failure) -> bool:
        """Whether the server worked after it."""
        if found.signature.survivable or (self.fatal_at is not None and self.fatal_at >= found.order):
            return False
        return self.alive_at > found.order


def _earliest(some: list[Failure]) -> Failure:
    """The earliest by time stamp; without comparable time stamps the first in the log."""
    first = some[0]
    for each in some[1:]:
        if each.time and len(each.time) == len(first.time) and each.time < first.time:
            first = each
    return first


def chosen(boots: Mapping[str, Boot], earlier: Mapping[str, list[Boot]]) -> Boot:
    """The boot to report: the last of each server; if several servers are in the log, the first that failed."""
    told = {name: each for name, each in boots.items() if each.told} or boots
    shown = [_shown(each, earlier.get(name, [])) for name, each in told.items()]
    failed = [(found.order, number) for number, each in enumerate(shown) if (found := each.cause or each.summary)]
    return shown[min(failed)[1]] if failed else shown[0]


def _shown(boot: Boot, before: list[Boot]) -> Boot:
    """*boot*; the failed one before it if *boot* had only begun when the log ends."""
    begun = not (boot.cause or boot.summary or boot.served_at or boot.alive_at)
    return before[-1] if begun and before and (before[-1].cause or before[-1].summary) else boot
