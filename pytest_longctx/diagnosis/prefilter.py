"""
Which of many patterns a line can match at all: by one word, or one piece of text, that each of them needs.

A word that stands whole between two blanks or marks can be looked up; a pattern that has none of its own is asked for by a piece
of text. Both are found in the pattern itself, so no list has to be kept beside it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

HEXADECIMAL: Final = b"0123456789abcdef"
"""Bytes without which the lines of a log are often alike: numbers differ, and ids."""
_NO_WORD: Final = bytes(byte for byte in range(128) if not (chr(byte).isalpha() or chr(byte) == "_"))
_TO_BLANKS: Final = bytes.maketrans(_NO_WORD, b" " * len(_NO_WORD))
_COMMON: Final = frozenset(
    (
        "the",
        "for",
        "error",
        "Error",
        "failed",
        "model",
        "memory",
        "with",
        "not",
        "is",
        "ERROR",
        "from",
        "and",
        "INFO",
        "File",
        "EngineCore",
        "Worker",
        "APIServer",
        "pid",
        "ERROR",
        "WARNING",
        "DEBUG",
        "core",
        "to",
        "of",
        "in",
        "is",
        "was",
        "has",
        "on",
        "at",
        "no",
        "out",
        "be",
        "a",
        "or",
        "by",
        "CUDA",
        "GPU",
        "cache",
        "max",
        "set",
        "py",
        "GiB",
    )
)
_LEAST: Final = 12
_EDGE: Final = "\0"
"""Stands in a piece where no letter can follow or come before."""


def words_of(text: bytes) -> list[bytes]:
    """The words of *text*: letters and underscores."""
    return text.translate(_TO_BLANKS).split()


def pieces(regex: str, left: str = _EDGE, right: str = _EDGE) -> tuple[str, ...]:
    r"""
    Texts of which every match of *regex* has one, with a mark where a word cannot go on; none where it has no such text.

    A pattern that begins or ends with a letter is taken to begin or end a word there.

    >>> pieces(r"Worker proc \S+ died|engine core (?:exited|ended) unexpectedly")
    ('\x00Worker proc ', ' unexpectedly\x00')
    """
    found: list[str] = []
    for branch in _branches(regex):
        runs, groups = _runs(branch, left, right)
        best = max(runs, key=_worth, default="")
        inner: tuple[str, ...] = ()
        if _worth(best) < _LEAST:
            some = [pieces(*group) for group in groups]
            inner = max(some, key=lambda texts: min(map(_worth, texts), default=0), default=())
        if inner and min(map(_worth, inner)) > _worth(best):
            found += inner
        elif best.strip(_EDGE):
            found.append(best)
        else:
            return ()
    return tuple(dict.fromkeys(found))


def _worth(run: str) -> int:
    word = anchor(run)
    return len(run.strip(_EDGE + " ")) if word is None else len(word) + 10 * (word not in _COMMON)


_TOKEN = re.compile(
    r"\\(?P<escaped>.)|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:P<\w+>|:|(?P<look><?[=!])|(?P<flag>[a-z]+\))))?|(?P<close>\))|(?P<bar>\|)"
    r"|(?P<count>[*+?]\??|\{\d*,?\d*\}\??)|(?P<mark>[.^$])|(?P<plain>.)",
    re.DOTALL,
)


def _branches(regex: str) -> Iterator[str]:
    """The alternatives of *regex* at its top."""
    depth, start = 0, 0
    for token in _TOKEN.finditer(regex):
        if token[0].startswith("(") and not token["flag"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["bar"] and depth == 0:
            yield regex[start : token.start()]
            start = token.end()
    yield regex[start:]


def _runs(branch: str, left: str, right: str) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Plain text that a match of *branch* must have, in one piece each, and the groups it must have with what bounds them."""
    parts = _Parts(branch, left, right)
    for token in _TOKEN.finditer(branch):
        parts.take(token)
    runs = [*parts.runs, parts.run + right if parts.run else right]
    return [each for each in runs if each.strip(_EDGE)], parts.groups


class _Parts:
    """One alternative of a pattern while it is taken apart."""

    def __init__(self, branch: str, left: str, right: str) -> None:
        self._branch, self._right = branch, right
        self.run = left
        self.runs: list[str] = []
        self.groups: list[tuple[str, str, str]] = []
        self._depth, self._opened, self._looks, self._before = 0, 0, False, ""

    def take(self, token: re.Match[str]) -> None:
        """Take in one token."""
        if token[0].startswith("(") and not token["flag"]:
            self._open(token)
        elif token["close"]:
            self._close(token)
        elif self._depth:
            return
        elif token["count"]:
            self._count(token)
        elif token["mark"] in ("^", "$") or token[0] in (r"\b", r"\d", r"\s"):
            self._break(self.run + _EDGE, _EDGE)
        else:
            escaped = token["escaped"] if token["escaped"] and not token["escaped"].isalnum() else None
            plain = token["plain"] or escaped
            if plain is None:
                self._break(self.run)
            else:
                self.run += plain

    def _break(self, run: str, start: str = "") -> None:
        self.runs.append(run)
        self.run = start

    def _open(self, token: re.Match[str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._before = _EDGE if self.run and not self.run[-1].isalpha() and self.run[-1] != "_" else ""
            self._break(self.run)
            self._opened, self._looks = token.end(), bool(token["look"])

    def _close(self, token: re.Match[str]) -> None:
        self._depth -= 1
        if self._depth == 0 and not self._looks:
            after = self._branch[token.end() : token.end() + 1]
            right = self._right if not after else _EDGE if after in " :'(=,[" else ""
            self.groups.append((self._branch[self._opened : token.start()], self._before, right))

    def _count(self, token: re.Match[str]) -> None:
        may_be_none = token[0][0] in "*?" or token[0].startswith(("{0", "{,"))
        if self._branch[token.start() - 1] == ")":
            if may_be_none and self.groups:
                self.groups.pop()
        elif may_be_none:
            self.run = self.run[:-1]
        self._break(self.run)


def anchor(piece: str) -> str | None:
    """The best word that stands whole in *piece*; None where its ends may be parts of longer words."""
    inside = [match[0] for match in re.finditer(r"[A-Za-z_]+", piece) if match.start() > 0 and match.end() < len(piece)]
    words = [word for word in inside if len(word) >= 2]
    return max(words, key=lambda word: (word not in _COMMON, len(word)), default=None)


class Prefilter:
    """Patterns by number, and which of them a line may match."""

    def __init__(self, regexes: Sequence[str]) -> None:
        self._by_word: dict[bytes, list[int]] = {}
        self._by_piece: dict[bytes, list[int]] = {}
        self.always: list[int] = []
        for number, regex in enumerate(regexes):
            needed = pieces(regex)
            if not needed:
                self.always.append(number)
            for piece in needed:
                word = anchor(piece)
                if word is not None:
                    self._by_word.setdefault(word.encode(), []).append(number)
                else:
                    text = max(
                        re.split(r"\d+", piece.strip(_EDGE)), key=len
                    )  # lines are looked up without their numbers
                    self._by_piece.setdefault(text.encode(), []).append(number)
        self._words = frozenset(self._by_word)
        self._pieces = tuple(self._by_piece)

    def matters(self, line: bytes) -> bool:
        """Whether any pattern may match *line*."""
        if self.always or not self._words.isdisjoint(words_of(line)):
            return True
        return any(piece in line for piece in self._pieces)

    def numbers(self, line: bytes) -> list[int]:
        """The patterns that may match *line*, in their order."""
        words, texts = self._words.intersection(words_of(line)), [piece for piece in self._pieces if piece in line]
        if not (words or texts or self.always):
            return []
        found = set(self.always)
        found.update(*(self._by_word[word] for word in words), *(self._by_piece[piece] for piece in texts))
        return sorted(found)
