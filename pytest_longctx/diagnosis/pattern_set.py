"""
Search for many patterns in lines at once.

All words that the patterns need are searched for in one pass (Aho-Corasick), at a speed that no text changes. Only the patterns
whose words are there are searched for, each by RE2. The search may report a pattern that does not match; it never misses one
that does. `re` decides what was found.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate, product
from typing import Any, Final

import re2
from ahocorasick_rs import BytesAhoCorasick, Implementation

_MOST_STATES_BYTES: Final = 1 << 20
"""Memory that RE2 may take for one pattern. If its automaton needs more, RE2 drops states of it and continues."""
_LONGEST_WORD: Final = 24
"""The first characters of a needed word, which are searched for. The rest would tell little more."""
_SHORTEST_WORD: Final = 2
_RARE_WORD: Final = 3
"""A word with fewer characters is in most long texts: there the pattern itself is searched for instead."""
_HEAD_BYTES: Final = 1 << 10
_MOST_WORDS: Final = 128
"""Most words in the list of all texts that a part of a pattern matches."""
_GROUP: Final = re.compile(r"\((?:\?(?::|P<\w+>))?")
_FLAGS: Final = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?!:|P<|m:)")
"""Groups that match other text than the text inside them."""
_COUNT: Final = re.compile(r"\{\d*,?\d*\}")
_END: Final = r'(?:"|[ \t\r]*(?m:$))'
"""The end of a message; in a line of JSON a quotation mark."""
_TOKEN = re.compile(
    r"(?P<look>\(\?<?[=!])|(?P<open>\()|(?P<close>\))|(?P<count>\{\d*,?\d*\})|(?P<digits>\d+)"
    r"|(?P<either>\[(?!\^)\]?(?:\\.|[^\]\\])*\])|(?P<other>\[\^\]?(?:\\.|[^\]\\])*\]|\\.|.)",
    re.DOTALL,
)


def relaxed(regex: str) -> str:
    r"""
    Return a pattern that RE2 can read and that matches wherever *regex* does, with any number where *regex* has one.

    Lookarounds are left out, which RE2 does not have, and ``^``, since a line's prefixes stand before its message.
    Numbers are relaxed so that lines which differ only in numbers have the same answer, and so is a reference to a group.

    A repetition that begins a pattern is left out as well: a search does not need it, and would begin to match it at every word.

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
    """Yield the alternatives of the pattern *regex*, each as its tokens."""
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
    """
    Remove the parts at the beginning of *tokens* that a search may skip: ``X*`` and ``X?``, and all but one repetition
    of ``X+``.
    """
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


def needed(regex: str) -> list[list[str]]:
    r"""
    Return lists of words, rare ones first; without a word of each list, *regex*, one relaxed alternative, cannot match.

    >>> needed(r"(?:CUDA|HIP) errors?: .*\b(?:launch|copy)\b")
    [['CUDA errors: ', 'CUDA error: ', 'HIP errors: ', 'HIP error: '], ['launch', 'copy']]
    """
    if _FLAGS.search(regex):
        return []
    (tokens,) = _alternatives(regex)
    parts = sorted(_between_gaps(tokens), key=_rareness, reverse=True)
    return [words for words in parts if _rareness(words)[0] >= _SHORTEST_WORD]


def _between_gaps(tokens: list[str]) -> list[list[str]]:
    """Return, for each part of an alternative between its gaps, words of which every match contains one."""
    parts, words = list[list[str]](), [""]
    for atom, mark in _atoms(tokens):
        spelled = _spelled(atom) if mark in ("", "?", "+") else None
        longer = _joined(words, [*spelled, ""] if mark == "?" else spelled) if spelled else None
        if spelled is None or longer is None:
            parts += [words, _inside(atom) if mark in ("", "+") and not spelled else []]
            words = spelled if spelled and mark != "?" else [""]
        elif mark == "+":
            parts.append(longer)
            words = spelled
        else:
            words = longer
    return [*parts, words]


def _inside(atom: list[str]) -> list[str]:
    """
    Return words of which every match of a group contains one: the rarest words of each alternative; empty if none is
    known.
    """
    if atom[0] != "(":
        return []
    found = [needed("".join(tokens)) for tokens in _alternatives(_inner(atom))]
    return [word for lists in found for word in lists[0]] if all(found) else []


def _rareness(words: list[str]) -> tuple[int, int]:
    return min(_LONGEST_WORD, min(map(len, words), default=0)), -len(words)


def _joined(words: list[str], more: list[str]) -> list[str] | None:
    """Return each of *words* followed by each of *more*; None if these are too many."""
    return [before + after for before, after in product(words, more)] if len(words) * len(more) <= _MOST_WORDS else None


def _atoms(tokens: list[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the characters, classes and groups of an alternative, each with the mark of its repetition, or an empty mark."""
    depth, atom, mark = 0, list[str](), ""
    for part in tokens:
        repeats = part in ("?", "*", "+") or _COUNT.fullmatch(part)
        if depth == 0 and atom and repeats:
            mark = mark or part[0]
            continue
        if depth == 0 and atom:
            yield atom, mark
            atom, mark = [], ""
        atom.append(part)
        depth += (part == "(") - (part == ")")
    if atom:
        yield atom, mark


def _inner(group: list[str]) -> str:
    return _GROUP.sub("", "".join(group)[:-1], count=1)


def _spelled(atom: list[str]) -> list[str] | None:
    """Return every text that a pattern's *atom* matches; None if these are too many or unknown."""
    first = atom[0]
    if first == "(":
        found = list[str]()
        for tokens in _alternatives(_inner(atom)):
            words: list[str] | None = [""]
            for inner, mark in _atoms(tokens):
                more = _spelled(inner) if mark in ("", "?") else None
                words = None if words is None or more is None else _joined(words, [*more, ""] if mark else more)
            if words is None or len(found) + len(words) > _MOST_WORDS:
                return None
            found += words
        return found
    if first[0] == "[":
        return list(first[1:-1]) if re.fullmatch(r"\[\w+\]", first) else None
    if first in (r"\b", r"\B"):
        return [""]
    return None if first in (".", "^", "$") or re.fullmatch(r"\\\w", first) else [first[-1]]


class PatternSet:
    """Numbered patterns that are searched in a line at once. A pattern that RE2 cannot read may match every line."""

    def __init__(self, regexes: Sequence[str]) -> None:
        found = [(number, *each) for number, regex in enumerate(regexes) for each in _with_words(regex)]
        self._parts = [(number, part) for number, part, _ in found]
        """The alternatives of the patterns, each with the number of its pattern."""
        first, second = dict[bytes, set[int]](), dict[bytes, set[int]]()
        self._always, self._one_list, self._common = set[int](), set[int](), set[int]()
        """Alternatives, by their place: that need no word, that need one word list only, and whose words are in most texts."""
        rare = set[bytes]()
        for here, (_, _, lists) in enumerate(found):
            self._always |= {here} if not lists else set()
            self._one_list |= {here} if len(lists) < 2 else set()
            for owners, words in zip((first, second), lists, strict=False):
                for word in words:
                    owners.setdefault(word[:_LONGEST_WORD].encode(), set()).add(here)
            if lists and min(map(len, lists[0])) >= _RARE_WORD:
                rare.update(word[:_LONGEST_WORD].encode() for word in lists[0])
            else:
                self._common.add(here)
        both = list(first.keys() | second.keys())
        self._first = [first.get(word, set()) for word in both]
        self._second = [second.get(word, set()) for word in both]
        self._words = BytesAhoCorasick(both, implementation=Implementation.ContiguousNFA)
        self._rare = BytesAhoCorasick(rare, implementation=Implementation.ContiguousNFA)

    def may_match(self, text: bytes) -> bool:
        """
        Return whether a line of *text* has a word that a pattern needs, or matches a pattern whose words are in most
        texts.
        """
        found = self._rare.find_matches_as_indexes
        return bool(
            found(text[:_HEAD_BYTES])  # where many lines have one, the rest need not be searched
            or found(text)
            or any(self._search(part, text, 0) is not None for part in self._common)
        )

    def numbers(self, text: str) -> list[int]:
        """Return the numbers of the patterns that may match *text*, one line or several, in their order."""
        encoded = text.encode("utf-8", "replace")  # a lone surrogate has no UTF-8
        found = set[int]()
        for part in self._candidates(encoded):
            number = self._parts[part][0]
            if number not in found and self._search(part, encoded, 0) is not None:
                found.add(number)
        return sorted(found)

    def matched(self, texts: Sequence[bytes]) -> set[int]:
        """Return which of *texts* a pattern of the set may match, by their place; each is UTF-8, and one line or several."""
        whole, starts = b"\n".join(texts), [0, *accumulate(len(text) + 1 for text in texts)]
        found = set[int]()
        for part in self._candidates(whole):
            at = 0
            while at < len(texts) and (place := self._search(part, whole, starts[at])) is not None:
                at = bisect_right(starts, place) - 1
                found.add(at)
                while at in found:
                    at += 1
        return found

    def _candidates(self, text: bytes) -> set[int]:
        """Return the alternatives whose words are in *text*, and the alternatives that need none."""
        words = {hit[0] for hit in self._words.find_matches_as_indexes(text, overlapping=True)}
        some = set[int]().union(*(self._first[word] for word in words))
        return self._always | (some & self._one_list.union(*(self._second[word] for word in words)))

    def _search(self, part: int, text: bytes, start: int) -> int | None:
        """Return the position from *start* on at which an alternative first matches in *text*; None without a match."""
        made = _made(self._parts[part][1])
        if made is None:
            return start
        found = made.search(text, start)
        return None if found is None else int(found.start())


@lru_cache(maxsize=8192)
def _with_words(regex: str) -> tuple[tuple[str, list[list[str]]], ...]:
    """
    Return the alternatives of *regex* with the words that each needs. The result is cached, because the engines' sets
    share most patterns.
    """
    return tuple((part, needed(part)) for part in _parts_of(relaxed(regex)))


def _parts_of(regex: str) -> list[str]:
    """Return the alternatives of the relaxed pattern *regex*; the whole pattern if flags in it hold for several."""
    return [regex] if _FLAGS.search(regex) else ["".join(tokens) for tokens in _alternatives(regex)]


@cache
def _made(regex: str) -> Any:
    """Return the search for *regex* by RE2, made at its first use; None if RE2 cannot read the pattern."""
    options = re2.Options()
    options.max_mem = _MOST_STATES_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(regex, options)
    except re2.error:
        return None
