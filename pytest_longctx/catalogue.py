"""
What a server's log says: facts of a boot, its phases, and the failures it can end in.

A catalogue is a TOML file beside its backend. Patterns are searched in each line as the engine wrote it, without
terminal colours; named groups are readings, and their names are those of `pytest_longctx.measures`.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from pytest_longctx import tables
from pytest_longctx.errors import unknown
from pytest_longctx.measures import MEASURES
from pytest_longctx.observation import Outcome

TEXT_FACTS = ("kv_cache_dtype", "attention_backend", "engine_version", "architecture")
"""Readings of a boot that are words, not figures."""


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groupindex
    except re.error as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
    for name in groups:
        if name not in MEASURES and name not in TEXT_FACTS and f"{name.removesuffix('_mib')}_gib" not in MEASURES:
            raise ValueError(unknown("group", name, (*MEASURES, *TEXT_FACTS)))
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class Fact(tables.Table):
    """A line that tells something about a good boot."""

    regex: Pattern
    phase: str | None = None
    """The phase that has begun when this line appears."""


class Signature(tables.Table):
    """A line that tells why a server failed."""

    id: str
    outcome: Outcome
    phase: str
    regex: Pattern
    remedy: str
    source: str
    """Where the line was seen."""
    version: tables.VersionRange | None = None
    example: str
    """A line that matches."""
    near_miss: str
    """A line that looks alike and must not match."""
    summary: bool = False
    """The line only says that something failed; the cause stands before it, or is not in the log at all."""


class Catalogue(tables.Table):
    """All that is known of one engine's log."""

    fact: Annotated[tuple[Fact, ...], tables.LISTED] = ()
    signature: Annotated[tuple[Signature, ...], tables.LISTED] = ()


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure line that was seen: the first of its kind in the log."""

    signature: Signature
    line: str
    metrics: dict[str, float]


@dataclass(slots=True)
class Reading:
    """What a growing log has told so far. Feed it lines; memory stays constant."""

    catalogue: Catalogue
    figures: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    phase: str = "starting"
    cause: Failure | None = None
    """The first line that names a cause."""
    summary: Failure | None = None
    """The first line that says something failed without naming a cause."""

    @property
    def failure(self) -> Failure | None:
        """The cause where one was named, else the summary."""
        return self.cause or self.summary

    def feed(self, line: str) -> None:
        """Take in one line of the log."""
        line = _COLOURS.sub("", line)
        for fact in self.catalogue.fact:
            if match := re.search(fact.regex, line):
                self._note(match)
                self.phase = fact.phase or self.phase
        if self.cause is not None:
            return
        for signature in self.catalogue.signature:
            if match := re.search(signature.regex, line):
                failure = Failure(signature, line.strip(), figures(match.groupdict()))
                if not signature.summary:
                    self.cause = failure
                elif self.summary is None:
                    self.summary = failure
                return

    def _note(self, match: re.Match[str]) -> None:
        found = match.groupdict()
        self.figures |= figures(found)
        self.words |= {name: text for name, text in found.items() if name in TEXT_FACTS and text is not None}


def figures(readings: Mapping[str, str | None]) -> dict[str, float]:
    """
    Numbers as engines log them; what is no number is no reading, and MiB become GiB.

    >>> figures({"kv_cache_tokens": "5,711,392", "allocation_mib": "512.00", "weights_gib": "1.2.3", "weights_s": None})
    {'kv_cache_tokens': 5711392.0, 'allocation_gib': 0.5}
    """
    found = {}
    for name, text in readings.items():
        measure, scale = (f"{name[:-4]}_gib", 1024) if name.endswith("_mib") else (name, 1)
        with suppress(ValueError):
            if measure in MEASURES:
                found[measure] = float((text or "").replace(",", "")) / scale
    return found


def load(path: Path) -> Catalogue:
    """The catalogue at *path*. Raises `TableError`."""
    return tables.load(path, Catalogue)
