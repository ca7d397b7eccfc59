"""
What a growing log has told so far, in constant memory: feed it lines, or blocks of them as fast as a disk gives them.

A growing log as bytes: cut into lines, and sifted for the few that matter.

Nothing here keeps more than one line. Where a log is cut into chunks never changes what comes out.

A log file that somebody else is writing, read line by line as it grows.

The first error of a log: what Python's first traceback ends in, read through the prefixes that engines put before a line.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_longctx.diagnosis.signatures import Benign, Catalogue, Phase, Place, Signature, figures, words
from pytest_longctx.observation import Kind
from pytest_longctx.toml import in_range

LONGEST_LINE = 64 * 1024
"""Bytes of a line that are read; the rest of it is passed over."""

_LEFT_OUT = (b"0123456789", b"0123456789abcdefABCDEF")
"""Bytes without which the lines of a log are often alike: numbers differ, and ids in hexadecimal."""
_SAMPLE = 64 * 1024


class Lines:
    """Chunks in, whole lines out, each with a newline at its end and none longer than `LONGEST_LINE`."""

    def __init__(self) -> None:
        self._rest = b""
        self._passing = False
        """Whether what comes is the rest of a line that was cut."""

    def take(self, chunk: bytes) -> bytes:
        """The lines that *chunk* completes. A carriage return ends one too: progress bars use nothing else."""
        chunk = chunk.replace(b"\r", b"\n")
        if self._passing:
            end = chunk.find(b"\n")
            if end < 0:
                return b""
            chunk = chunk[end + 1 :]
        data = self._rest + chunk if self._rest else chunk
        self._passing = False
        whole, kept, start = [], 0, 0
        while len(data) - start > LONGEST_LINE:
            end = data.rfind(b"\n", start, start + LONGEST_LINE + 1)
            if end >= 0:
                start = end + 1
                continue
            whole += [data[kept : start + LONGEST_LINE], b"\n"]
            kept = start = data.find(b"\n", start + LONGEST_LINE) + 1
            if start == 0:
                self._passing = True
                kept = start = len(data)
        end = max(start, data.rfind(b"\n", start) + 1)
        whole.append(data[kept:end])
        self._rest = data[end:]
        return b"".join(whole)

    def rest(self) -> bytes:
        """The last line, where the log ends without a newline."""
        last, self._rest = self._rest, b""
        return last + b"\n" if last else b""


def _shapes(block: bytes, left_out: bytes) -> bytes:
    """The different lines of *block* without the bytes that are *left_out*."""
    return b"\n".join(set(block.translate(None, left_out).split(b"\n")))


class Sieve:
    """Finds, in one *block* of whole lines, those that have one of *hints* in them."""

    def __init__(self, hints: Sequence[bytes], block: bytes) -> None:
        self._block = block
        # Most logs say the same things again with other numbers: without these little is left to search, for hints without them.
        sample, lines = block[:_SAMPLE], block.count(b"\n", 0, _SAMPLE)
        dull = next((each for each in _LEFT_OUT if 2 * _shapes(sample, each).count(b"\n") < lines), b"")
        searched = _shapes(block, dull) if dull else block
        self._ahead = {hint: -1 for hint in hints if hint.translate(None, dull) in searched}

    def next(self, start: int) -> int:
        """Where the next line that matters begins, from the beginning of a line on; the block's length if there is none."""
        block, first = self._block, len(self._block)
        for hint, at in list(self._ahead.items()):
            if at < start:
                at = block.find(hint, start)  # noqa: PLW2901 - the one that was kept has been passed
                if at < 0:
                    del self._ahead[hint]
                    continue
                self._ahead[hint] = at
            first = min(first, at)
        return first if first == len(block) else block.rfind(b"\n", 0, first) + 1


_TAIL_CHUNK_BYTES: Final = 1 << 20


class LogTail:
    """Reads what a file has gained since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._lines = Lines()

    def more(self, *, ended: bool) -> Iterator[str]:
        """Whole new lines; once the writer has *ended*, also a last one without its line feed."""
        while chunk := self._file.read(_TAIL_CHUNK_BYTES):
            yield from _text(self._lines.take(chunk))
        if ended:
            yield from _text(self._lines.rest())

    def close(self) -> None:
        """Read no more."""
        self._file.close()


def _text(block: bytes) -> list[str]:
    return block.decode("utf-8", "replace").split("\n")[:-1]


HINTS = ("Traceback (most recent call last)", "ERROR", "rror", "CRITICAL", "FATAL", "Segmentation fault")
"""Words without which a line begins no error."""

_MOST_LINES = 2000
"""A traceback that has not ended by then is given up: another process has written over it."""
_HEADER = "Traceback (most recent call last)"
_PREFIX = re.compile(
    r"^(?P<tag>\([^)]*\bpid=\d+\) )?(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?(?: +\| ?)?"
)
_LOGGED = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|^\[?\d{4}-\d\d-\d\d|^[\w.]*Warning: ")
_ENDS_IN = re.compile(r"^(?:(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Z]\w*)(?:: .*)?$")
_COMPLAINS = re.compile(
    r"\b(?:ERROR|CRITICAL|FATAL)\b|^(?:[\w./-]+: )?(?:fatal )?error: |^Fatal Python error|Segmentation fault", re.ASCII
)


class FirstError:
    """Follows a log line by line; *text* is the first exception, once it is known."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.complaint: str | None = None
        """The first line that was logged as an error, for logs without a traceback."""
        self.inside = False
        """Whether a traceback has begun and not ended."""
        self._tag: str | None = None
        self._lines = 0

    def follow(self, line: str) -> None:
        """Take in one line."""
        if _HEADER in line:
            self._tag, self._lines, self.inside = _tag(line), 0, True
            return
        if self.inside:
            self._go_on(line)
        elif self.complaint is None and _COMPLAINS.search(line):
            self.complaint = line.strip()

    def _go_on(self, line: str) -> None:
        self._lines += 1
        prefix = _PREFIX.match(line)
        body = line[prefix.end() :] if prefix else line
        if _tag(line) != self._tag or _LOGGED.match(body) or not _ENDS_IN.match(body.rstrip()):
            self.inside = self._lines < _MOST_LINES
            return
        self.inside = False
        self.text = self.text or body.strip()


def _tag(line: str) -> str | None:
    """Which of several processes wrote *line*."""
    prefix = _PREFIX.match(line)
    return prefix["tag"] if prefix else None


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
class LogReader:
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


def read(chunks: Iterable[bytes], catalogue: Catalogue, version: str | None = None) -> LogReader:
    """The whole of a log, in chunks of any size."""
    reading, lines = LogReader(catalogue, version), Lines()
    for chunk in chunks:
        reading.read(lines.take(chunk))
    reading.read(lines.rest())
    return reading


def read_file(path: Path, catalogue: Catalogue, version: str | None = None) -> LogReader:
    """The whole of the log at *path*, as far as it is written."""
    with path.open("rb") as log:
        return read(iter(lambda: log.read(_CHUNK_BYTES), b""), catalogue, version)
