"""Index of a catalogue by pattern: which of its entries a line of a log may match."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pytest_longctx.diagnosis.pattern_set import PatternSet
from pytest_longctx.diagnosis.signatures import Catalogue

_STRUCTURE = (
    r'Traceback|File "|During handling|direct cause|(?:Error|Exception|Interrupt|Exit)(?:: |\(|$)|FATAL|CRITICAL|Segmentation'
    r"|Killed process|(?:oom|OOM)[-_:]? ?[Kk]ill|xited|xit ?Code|probe|Killing|Evicted|reempt|memory pressure|low on "
    r"|DUE TO|CANCELLED|stop-sigterm|\(code=|Ready:|entered RUNNING|(?:\d|\)): (?:fatal )?error: |panicked at|Server error: "
    r"|POST|throughput: (?!0\.0)|gen throughput|Success|aborting in-flight|Remaining number"
)
"""Words of lines that begin or end an error, or report how a process ended or that it works. Other lines do neither."""


class Index:
    """Index of the entries of one catalogue by their patterns."""

    def __init__(self, catalogue: Catalogue) -> None:
        kinds: tuple[tuple[Any, ...], ...] = (catalogue.fact, catalogue.benign, catalogue.signature)
        self.entries: list[tuple[re.Pattern[str], Any]] = [
            (re.compile(each.regex), each) for kind in kinds for each in kind
        ]
        self.places = [(re.compile(each.regex), each) for each in catalogue.place]
        self._patterns = PatternSet([*(pattern.pattern for pattern, _ in self.entries), _STRUCTURE])
        self._last: tuple[str, tuple[tuple[re.Pattern[str], Any], ...]] = ("", ())

    def may_match(self, text: bytes) -> bool:
        """Return whether *text*, one line or several, has a word that an entry of the catalogue or an error needs."""
        return self._patterns.may_match(text)

    def matched(self, texts: Sequence[bytes]) -> set[int]:
        """Return which of *texts*, by their place, an entry of the catalogue may match, or may begin or end an error."""
        return self._patterns.matched(texts)

    def of(self, text: str) -> tuple[tuple[re.Pattern[str], Any], ...]:
        """Return the catalogue entries that may match *text*, in the catalogue's order."""
        if self._last[0] != text:
            numbers = self._patterns.numbers(text)
            self._last = text, tuple(self.entries[number] for number in numbers if number < len(self.entries))
        return self._last[1]


@lru_cache(maxsize=16)
def _made(catalogue: "_Held") -> Index:
    return Index(catalogue.catalogue)


class _Held:
    """A catalogue as a key of a cache. Catalogues compare by identity, because comparing their content is slow."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __hash__(self) -> int:
        return id(self.catalogue)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.catalogue is self.catalogue


def index_of(catalogue: Catalogue) -> Index:
    """Return the index of the entries of *catalogue*, which is made once."""
    return _made(_Held(catalogue))
