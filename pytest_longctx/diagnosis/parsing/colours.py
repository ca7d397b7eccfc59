"""Remove terminal colours from a log, also if a collector wrote their escape character as text."""

import re
from typing import Final

_SPELLED_OUT: Final = ("#033[", "^[[", r"\x1b[", r"\033[", r"\e[")
"""How rsyslog, ``cat -v`` and scripts write the beginning of a colour."""
_MARKS: Final = ("\x1b", "_bk;t=", *_SPELLED_OUT)
_MARK_BYTES: Final = tuple(mark.encode() for mark in _MARKS)
_PATTERN: Final = (
    r"\x1b\[[0-9;?]*[A-Za-z]|(?:\x1b_|_)bk;t=\d+\x07?|\x1b[()][A-Z0-9]|(?:"
    + "|".join(map(re.escape, _SPELLED_OUT))
    + r")(?:\d{1,3}(?:;\d{1,3})*)?m"
)
_IN_TEXT: Final = re.compile(_PATTERN)
_IN_BYTES: Final = re.compile(_PATTERN.encode())


def without_colours(text: str) -> str:
    r"""
    Return *text* of a log without terminal colours and the time marks of Buildkite.

    >>> without_colours("\x1b[31mERROR\x1b[0m #033[2mit failed#033[0m")
    'ERROR it failed'
    """
    return _IN_TEXT.sub("", text) if any(mark in text for mark in _MARKS) else text


def block_without_colours(block: bytes) -> bytes:
    """Return a *block* of log lines without terminal colours and the time marks of Buildkite."""
    return _IN_BYTES.sub(b"", block) if any(mark in block for mark in _MARK_BYTES) else block
