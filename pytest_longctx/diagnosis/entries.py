"""The entries of a catalogue, each found by the words that its pattern needs; and what of a line matters without any."""

import re
from functools import lru_cache
from typing import Any, Final

from pytest_longctx.diagnosis.prefilter import Prefilter
from pytest_longctx.diagnosis.signatures import Catalogue

_MOST_SHAPES = 2_000
_STRUCTURE = (
    r'Traceback|File "|ERROR|CRITICAL|FATAL|rror|xception|Segmentation|Interrupt|Exit|During handling|was the direct cause'
    r"|Killed process|oom|OOM|oom_kill|OOMKilled|OOMKilling|process exited|Exit Code|exitCode|ExitCode|exited with"
    r"|probe|Killing|Evicted|Preempt|memory pressure"
    r"|low on|DUE TO|CANCELLED|stop-sigterm|POST|throughput|Success|aborting in-flight|number of requests"
)
"""Texts without which a line neither begins nor ends an error, nor tells how a process ended or that it lives."""
BEGINS = re.compile(
    rb'Traceback|File "|During handling|direct cause|(?:Error|Exception|Interrupt|Exit)(?:: |\(|$)|FATAL|CRITICAL|Segmentation'
    rb"|Killed process|oom|OOM|xited|xit ?Code|probe|Killing|Evicted|reempt|memory pressure|low on |DUE TO|CANCELLED|stop-sigterm"
    rb"|POST|throughput: (?!0\.0)|gen throughput|: Success|aborting in-flight|Remaining number"
)
_ANCHORS = re.compile(r"(?<![\\\[(?<])[\^$](?![\])])|(?<![\\\[])\^(?=[A-Z(])|\$$")
"""What holds a pattern to the beginning or the end of a message; before its prefixes are off a line has neither."""
_NO_DIGITS: Final = dict.fromkeys(map(ord, "0123456789"))


class Index:
    """The entries of one catalogue, each found by what its pattern needs."""

    def __init__(self, catalogue: Catalogue) -> None:
        kinds: tuple[tuple[Any, ...], ...] = (catalogue.fact, catalogue.benign, catalogue.signature)
        self.entries: list[tuple[re.Pattern[str], Any]] = [
            (re.compile(each.regex), each) for kind in kinds for each in kind
        ]
        self.filter = Prefilter([*(pattern.pattern for pattern, _ in self.entries), _STRUCTURE])
        self.places = [(re.compile(each.regex), each) for each in catalogue.place]
        self._end = len(self.entries)
        self._anywhere = [re.compile(_ANCHORS.sub("", pattern.pattern)) for pattern, _ in self.entries]
        self._known: dict[str, tuple[tuple[re.Pattern[str], Any], ...]] = {}

    def matters(self, line: bytes) -> bool | None:
        """Whether *line* may say anything: a pattern matches it, or an error begins or ends; None: its level may matter."""
        numbers = self.filter.numbers(line)
        if not numbers:
            return False
        if line[:1] == b"{":
            return True
        text = line.decode("utf-8", "replace")
        if any(self._anywhere[number].search(text) for number in numbers if number != self._end):
            return True
        if numbers[-1] != self._end:
            return False
        return True if BEGINS.search(line) else None

    def of(self, text: str) -> tuple[tuple[re.Pattern[str], Any], ...]:
        """The entries that may be about *text*, in the catalogue's order."""
        shape = text.translate(_NO_DIGITS)
        found = self._known.get(shape)
        if found is None:
            if len(self._known) > _MOST_SHAPES:
                self._known.clear()
            numbers = self.filter.numbers(text.encode("utf-8", "replace"))
            found = self._known[shape] = tuple(self.entries[number] for number in numbers if number != self._end)
        return found


@lru_cache(maxsize=16)
def _made(catalogue: "_Held") -> Index:
    return Index(catalogue.catalogue)


class _Held:
    """A catalogue by its identity: comparing the content of one is slow."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __hash__(self) -> int:
        return id(self.catalogue)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.catalogue is self.catalogue


def index_of(catalogue: Catalogue) -> Index:
    """The index of *catalogue*, made once."""
    return _made(_Held(catalogue))
