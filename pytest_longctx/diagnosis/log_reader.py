"""What a growing log has told so far, in constant memory: feed it lines, or blocks of them as fast as a disk gives them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_longctx.diagnosis.log_lines import Lines, Sieve
from pytest_longctx.diagnosis.signatures import Benign, Catalogue, Phase, Place, Signature, figures, words
from pytest_longctx.diagnosis.tracebacks import HINTS, FirstError
from pytest_longctx.observation import Kind
from pytest_longctx.toml import in_range

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_COLOURS_IN_BYTES = re.compile(rb"\x1b\[[0-9;]*m")
_CHUNK_BYTES = 1 << 20
_SIZES_WITHIN = 20
"""How many lines after a failure its sizes may stand in."""


@dataclass(slots=True)
class Failure:
    """A failure line that was seen: the first of its kind in the log."""

    signature: Signature
    line: str
    metrics: dict[str, float]
    words: dict[str, str]
    phase: Phase
    place: Place | None = None
    """Where in the program it happened, as its traceback says."""
    silent: bool = False
    """Whether nothing had been logged as an error before it."""

    @property
    def kind(self) -> Kind:
        """The class; that of its place where the signature knows no more than that memory ran out."""
        return self.place.kind if self.place else self.signature.kind

    @property
    def remedy(self) -> str:
        """What to try."""
        return (self.place and self.place.remedy) or self.signature.remedy


@dataclass(slots=True)
class Reading:
    """What the log of one server says. *version* is the engine's where it is known; else the log is asked."""

    catalogue: Catalogue
    version: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    phase: Phase = "start"
    cause: Failure | None = None
    """The first line that names a cause."""
    summary: Failure | None = None
    """The first line that says something failed without naming a cause."""
    notices: Counter[str] = field(default_factory=Counter)
    """How often each benign line was seen, by its id."""
    errors: FirstError = field(default_factory=FirstError)
    _place: Place | None = None
    _sizes_due: int = 0
    _boot_hints: tuple[str, ...] = field(init=False)
    _hints: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        own = self.catalogue.hints
        self._hints = tuple(dict.fromkeys((*own, *HINTS))) if own else ()
        self._boot_hints = (*self._hints, *self.catalogue.boot_hints) if own else ()

    @property
    def failure(self) -> Failure | None:
        """The cause where one was named, else the summary."""
        return self.cause or self.summary

    def benign(self) -> Iterator[tuple[Benign, int]]:
        """The benign lines that were seen, and how often."""
        for entry in self.catalogue.benign:
            if self.notices[entry.id]:
                yield entry, self.notices[entry.id]

    def told(self) -> dict[str, str]:
        """Its words, and under ``notices`` the ids of the benign lines."""
        seen = ", ".join(entry.id for entry, _ in self.benign())
        return {**self.words, "notices": seen} if seen else dict(self.words)

    def read(self, block: bytes) -> None:
        """Take in a block of whole lines, as `Lines` makes them."""
        if b"\x1b" in block:
            block = _COLOURS_IN_BYTES.sub(b"", block)
        start, end = 0, len(block)
        hints: tuple[str, ...] = ()
        while start < end and self.phase != "stop":
            if wanted := self._sought():
                if hints != wanted:
                    hints, sieve = wanted, Sieve([hint.encode() for hint in wanted], block)
                start = sieve.next(start)
                if start == end:
                    return
            stop = block.find(b"\n", start)
            self.feed(block[start:stop].decode("utf-8", "replace"))
            start = stop + 1

    def feed(self, line: str) -> None:
        """Take in one line of the log."""
        line = _COLOURS.sub("", line)
        sought = self._sought()
        # What a server says while it is stopped on purpose is no failure.
        if self.phase == "stop" or (sought and not any(hint in line for hint in sought)):
            return
        self._facts(line)
        if any(self._notice(entry, line) for entry in self.catalogue.benign):
            return
        silent = self.errors.text is None and self.errors.complaint is None and not self.errors.inside
        self.errors.follow(line)
        if self.cause is not None:
            self._sizes(line)
        else:
            self._look(line, silent=silent)

    def _sought(self) -> tuple[str, ...]:
        """Words without which a line does not matter now; empty: every line does, inside a traceback for one."""
        if self.errors.inside or self._sizes_due:
            return ()
        return self._hints if self.phase == "serve" else self._boot_hints

    def _facts(self, line: str) -> None:
        for fact in self.catalogue.fact:
            if (self.phase == "serve") is (fact.phase == "stop") and (match := re.search(fact.regex, line)):
                found = match.groupdict()
                self.figures |= figures(found)
                self.words |= words(found)
                self.phase = fact.phase or self.phase

    def _notice(self, entry: Benign, line: str) -> bool:
        if not re.search(entry.regex, line):
            return False
        self.notices[entry.id] += 1
        return True

    def _look(self, line: str, *, silent: bool) -> None:
        """Look for a failure in *line*, and for the place of one that may come."""
        for place in self.catalogue.place if self.errors.inside else ():
            if re.search(place.regex, line):
                self._place = place
        for signature in self.catalogue.signature:
            if (signature.summary and self.summary) or not (match := re.search(signature.regex, line)):
                continue
            if signature.version is not None and not self._runs(signature.version):
                continue
            failure = self._failed(signature, match, line, silent=silent)
            if signature.summary:
                self.summary = failure
            else:
                self.cause = failure
                self._sizes_due = _SIZES_WITHIN if signature.then else 0
            break
        if not self.errors.inside:  # this was its last line, or there was none
            self._place = None

    def _failed(self, signature: Signature, match: re.Match[str], line: str, *, silent: bool) -> Failure:
        found = match.groupdict()
        place = self._place if signature.kind == "gpu-oom" else None
        phase = place.phase if place else signature.phase or self.phase
        return Failure(signature, line.strip(), figures(found), words(found), phase, place, silent)

    def _sizes(self, line: str) -> None:
        if not self._sizes_due or self.cause is None or self.cause.signature.then is None:
            return
        self._sizes_due -= 1
        if match := re.search(self.cause.signature.then, line):
            self.cause.metrics |= figures(match.groupdict())
            self._sizes_due = 0

    def _runs(self, wanted: str) -> bool:
        """Whether the engine's version lies in *wanted*; so does one that is not known."""
        version = self.words.get("engine_version", self.version)
        return version is None or in_range(version, wanted)


def read(chunks: Iterable[bytes], catalogue: Catalogue, version: str | None = None) -> Reading:
    """The whole of a log, in chunks of any size."""
    reading, lines = Reading(catalogue, version), Lines()
    for chunk in chunks:
        reading.read(lines.take(chunk))
    reading.read(lines.rest())
    return reading


def read_file(path: Path, catalogue: Catalogue, version: str | None = None) -> Reading:
    """The whole of the log at *path*, as far as it is written."""
    with path.open("rb") as log:
        return read(iter(lambda: log.read(_CHUNK_BYTES), b""), catalogue, version)
