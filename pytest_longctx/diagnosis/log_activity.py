"""
Detect whether a log has new lines.

A line that differs from an earlier one only in its time is not new, nor is a line of the access log about a request of
this package. Progress bars, which end in a carriage return or have no end, are read while they grow.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_CLOCK: Final = re.compile(r"\x1b\[[0-9;]*m|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?|\b(?:\d{4}[-/])?\d\d[-/]\d\d\b|:\d{4,5}\b")
"""Colours, times, dates and client ports."""
_ASKED: Final = re.compile(r'"?\b(?:GET|POST|HEAD) /\S*(?: HTTP/|"| )')
"""A line of an access log, caused by our own requests."""
_MOST_BYTES: Final = 1 << 22
_MOST_LINES: Final = 100_000


@dataclass(slots=True)
class LogMotion:
    """Detector of new lines in a log. *idle* are patterns of lines that are logged with and without work."""

    path: Path | None = None
    idle: tuple[str, ...] = ()
    offset: int = 0
    last: str = ""
    """The last new line."""
    _seen: set[str] = field(default_factory=set)

    @classmethod
    def from_now(cls, path: Path | None, idle: tuple[str, ...] = ()) -> "LogMotion":
        """Return a detector of new lines in the log at *path*, from the log's current end on."""
        there = path is not None and path.is_file()
        return cls(path if there else None, idle, path.stat().st_size if there and path is not None else 0)

    def grown(self) -> bool:
        """Return whether the log has a new line since the last call, as a sign of activity."""
        if self.path is None:
            return False
        try:
            with self.path.open("rb") as log:
                log.seek(self.offset)
                block = log.read(_MOST_BYTES)
        except OSError:
            return False
        # A line without an end is read again, with its rest.
        ended = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
        self.offset += ended if ended or len(block) < _MOST_BYTES else len(block)
        return self.new(re.split(r"[\r\n]+", block.decode("utf-8", "replace")))

    def new(self, lines: Iterable[str]) -> bool:
        """Return whether any of *lines* is new, and not a repetition with another time."""
        found = [line for line in lines if self._is_new(line)]
        self.last = found[-1].strip() if found else self.last
        return bool(found)

    def _is_new(self, line: str) -> bool:
        said = _CLOCK.sub("", line).strip()
        if not said or said in self._seen or _ASKED.search(said):
            return False
        if len(self._seen) >= _MOST_LINES:
            self._seen.clear()
        self._seen.add(said)
        return not any(re.search(pattern, line) for pattern in self.idle)
