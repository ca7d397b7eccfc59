"""
Many patterns searched for in a line at once, by RE2.

The search may report a pattern that does not match the line; it never misses one that does. `re` decides what was found.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

import re2

_MOST_STATES_BYTES: Final = 16 << 20
"""Memory that RE2 may take for the states of its automaton; RE2 drops them and goes on where they need more."""
_END: Final = r'(?:"|[ \t\r]*(?m:$))'
"""The end of a message; in a line of JSON a quotation mark."""
_TOKEN = re.compile(
    r"(?P<look>\(\?<?[=!])|(?P<open>\()|(?P<close>\))|(?P<count>\{\d*,?\d*\})|(?P<digits>\d+)"
    r"|(?P<either>\[(?!\^)\]?(?:\\.|[^\]\\])*\])|(?P<other>\[\^\]?(?:\\.|[^\]\\])*\]|\\.|.)",
    re.DOTALL,
)


def relaxed(regex: str) -> str:
    r"""
    A pattern that RE2 can read and that matches wherever *regex* does, with any number where *regex* has one.

    Lookarounds are left out, which RE2 does not have, and ``^``, since a line's prefixes stand before its message.
    Numbers are relaxed so that lines which differ only in numbers have the same answer, and so is a reference to a group.

    A repetition that begins a pattern is left out as well: it is nowhere needed, and would be half matched at every word.

    >>> relaxed(r"^exit code [1-9](?!0) in 20 s")
    'exit code [1-90-9] in \\d+ s'
    >>> relaxed(r"^[\w.]*Error: |\s+Value error")
    'Error: |\\sValue error'
    """
    return "|".join("".join(_begun(tokens)) for tokens in _alternatives("".join(_parts(regex))))


def _parts(regex: str) -> Iterator[str]:
    depth, lookaround = 0, None
    for token in _TOKEN.finditer(regex):
        depth += bool(token["look"] or token["open"]) - bool(token["close"])
        if lookaround is not None:
            lookaround = None if depth < lookaround else lookaround
        elif token["look"]:
            lookaround = depth
        elif re.fullmatch(r"\\[1-9]", token[0]):
            yield ".*"
        elif token["digits"]:
            yield r"\d+"
        elif token["either"]:
            yield f"{token[0][:-1]}0-9]" if re.search(r"\d", token[0]) else token[0]
        elif token[0] == "$":
            yield _END
        elif token[0] != "^":
            yield token[0]


def _alternatives(regex: str) -> Iterator[list[str]]:
    """The alternatives of the pattern *regex*, each as its tokens."""
    depth, tokens = 0, list[str]()
    for token in _TOKEN.finditer(regex):
        depth += bool(token["look"] or token["open"]) - bool(token["close"])
        if depth == 0 and token[0] == "|":
            yield tokens
            tokens = []
        else:
            tokens.append(token[0])
    yield tokens


def _begun(tokens: list[str]) -> list[str]:
    """A pattern's *tokens* without what a search may skip at their beginning: ``X*`` and ``X?``, and all but one of ``X+``."""
    while tokens:
        depths = accumulate((part == "(") - (part == ")") for part in tokens)
        atom = next(number for number, depth in enumerate(depths, 1) if depth == 0)
        mark = tokens[atom : atom + 1]
        if mark not in (["*"], ["?"], ["+"]):
            break
        rest = tokens[atom + 2 :] if tokens[atom + 1 : atom + 2] == ["?"] else tokens[atom + 1 :]
        if mark == ["+"]:
            return [*tokens[:atom], *rest]
        tokens = rest
    return tokens


class PatternSet:
    """Numbered patterns, searched in a line at once. A pattern that RE2 cannot read may match every line."""

    def __init__(self, regexes: Sequence[str]) -> None:
        options = re2.Options()
        options.max_mem = _MOST_STATES_BYTES
        options.log_errors = False
        self._set = re2.Set.SearchSet(options)
        self._numbers: list[int] = []
        self._unread: list[int] = []
        for number, regex in enumerate(regexes):
            try:
                self._set.Add(relaxed(regex))
            except re2.error:
                self._unread.append(number)
            else:
                self._numbers.append(number)
        self._set.Compile()

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of the patterns that may match *text*, one line or several, in their order."""
        if not self._numbers:
            return self._unread
        found = self._set.Match(text.encode("utf-8", "replace")) or ()  # a lone surrogate has no UTF-8
        return sorted([*(self._numbers[index] for index in found), *self._unread])
