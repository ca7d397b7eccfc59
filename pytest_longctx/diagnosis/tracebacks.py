"""The first error of a log: what Python's first traceback ends in, read through the prefixes that engines put before a line."""

import re

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
