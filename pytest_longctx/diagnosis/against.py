"""Compare the log of a failed boot with that of a good boot."""

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isclose
from typing import Final

from pytest_longctx.diagnosis import quoting
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.records import records
from pytest_longctx.measures import MEASURES

_ARGUMENTS = re.compile(r"(?:non-default args: |server_args=ServerArgs\(|args: Namespace\()(?P<dump>.*)")
_ONE = re.compile(r"""['"]?(?P<name>\w+)['"]?\s?[:=]\s?(?P<value>'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}|[^,)}]+)""")
_MOST_SHAPES: Final = 50_000
_MOST_LINES: Final = 8
_NEAR: Final = 0.01
_ALWAYS_OTHER: Final = frozenset(("port", "nccl_port", "dist_init_addr", "random_seed", "engine_id"))
"""What the launcher, or SGLang at random, sets anew for each boot."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:[.,:]\d+)*")


def differences(bad: LogReader, good: LogReader, bad_lines: Iterable[str], good_lines: Iterable[str]) -> Iterator[str]:
    """
    The differences of the failed boot *bad* from the boot *good*, in this order.

    Arguments, named facts such as versions, figures by more than one per cent, the phase reached, and the first kinds of lines
    that only *bad* has. Times and ports are left out: they differ between any two boots.
    """
    mine, theirs = _Seen(bad_lines), _Seen(good_lines)
    yield from _unequal("argument ", mine.arguments, theirs.arguments, "(not given)")
    both = bad.words.keys() & good.words.keys()
    yield from _unequal("", {name: bad.words[name] for name in both}, good.words, "")
    for name in sorted(bad.figures.keys() & good.figures.keys()):
        if MEASURES[name].unit != "s" and not isclose(bad.figures[name], good.figures[name], rel_tol=_NEAR):
            yield f"{name}: {bad.figures[name]:g}; good boot: {good.figures[name]:g}"
    if bad.phase != good.phase:
        yield f"phase reached: {bad.phase}; good boot: {good.phase}"
    only = [text for shape, text in mine.shapes.items() if shape not in theirs.shapes]
    for text in only[:_MOST_LINES]:
        yield f"line only in this log: {text[:240]}"
    if len(only) > _MOST_LINES:
        yield f"{len(only) - _MOST_LINES} more kinds of lines only in this log"


def _unequal(what: str, mine: Mapping[str, str], theirs: Mapping[str, str], absent: str) -> Iterator[str]:
    for name in sorted(mine.keys() | theirs.keys() if absent else mine):
        here, there = mine.get(name, absent), theirs.get(name, absent)
        if here != there and name not in _ALWAYS_OTHER:
            yield f"{what}{name}: {here}; good boot: {there}"


class _Seen:
    """The kinds of lines and the arguments of one log."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.shapes: dict[str, str] = {}
        self.arguments: dict[str, str] = {}
        for line in lines:
            for record in records(line):
                self._take(record.text.strip())

    def _take(self, text: str) -> None:
        if dump := _ARGUMENTS.search(text):
            self.arguments = {each["name"]: each["value"].strip() for each in _ONE.finditer(dump["dump"])}
            return
        if not text or quoting.is_request(text) or "%|" in text:
            return
        if len(self.shapes) < _MOST_SHAPES:
            self.shapes.setdefault(_NUMBERS.sub("#", text), text)
