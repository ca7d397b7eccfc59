"""
Prefixes that no pattern knows, learned from the log itself.

Collectors of logs put text before every line: a service, a time, a stream. If an engine's own prefix, or the first line
of a traceback, follows such text, the text is a prefix. Text of the same form before other lines is then a prefix too.
"""

import re
from typing import Final

from pytest_longctx.diagnosis.parsing import quoting

_ENGINE: Final = re.compile(
    r"(?:\(\w[\w .:=-]* pid=\d+\) )?(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[?[\w./<>-]+\.py:\d+\]"
    r"|\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: [A-Z]{2,4}\d+)+\] "
    r"|Traceback \(most recent call last\):\s*$"
)
"""Beginnings of lines that only engines write."""
_WORD: Final = re.compile(r"\d+|[0-9a-f]{6,}")
_LONGEST: Final = 160
_MOST: Final = 16
_PROSE: Final = re.compile(r"(?i)exception|error|failed|warning|prompt|['\"`{]|[a-z]{2,} [a-z]{2,}\b|[a-z]+:\s*$")
"""Text that belongs to the message: a summary before a traceback, a quotation, a sentence."""
_NUMBERED: Final = re.compile(r"[\d\[|]")
"""Every prefix of a collector has one of these: a time, a number or a frame."""


class OuterPrefixes:
    """Store of the learned prefixes."""

    def __init__(self) -> None:
        self._forms: list[str] = []
        self._known: re.Pattern[str] | None = None

    def removed(self, line: str) -> str:
        """Return the log *line* without a collector's outer prefix, after learning a new prefix that the line shows."""
        if self._known is not None and (found := self._known.match(line)):
            return line[found.end() :]
        found = _ENGINE.search(line, 0, _LONGEST + 80)
        if found is None or not 0 < found.start() <= _LONGEST or len(self._forms) >= _MOST:
            return line
        before = line[: found.start()]
        if _PROSE.search(before) or not _NUMBERED.search(before) or quoting.is_comment(line):
            return line
        self._learn(before)
        return line[found.start() :]

    def _learn(self, prefix: str) -> None:
        """Learn the form of a log collector's outer *prefix*: its text with any numbers and ids."""
        form, at = "", 0
        for found in _WORD.finditer(prefix):
            form += re.escape(prefix[at : found.start()]) + "[0-9a-f]+"
            at = found.end()
        self._forms.append(form + re.escape(prefix[at:].rstrip(" ")) + (" ?" if prefix.endswith(" ") else ""))
        self._known = re.compile("|".join(self._forms))
