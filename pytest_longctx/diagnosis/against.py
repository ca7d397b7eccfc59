"""A failed boot against one that went well: what differs first."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pytest_longctx.diagnosis import quoting
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.records import records

_ARGUMENTS = re.compile(r"(?:non-default args: |server_args=ServerArgs\(|args: Namespace\()(?P<dump>.*)")
_ONE = re.compile(r"""['"]?(?P<name>\w+)['"]?\s?[:=]\s?(?P<value>'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}|[^,)}]+)""")
_MOST_SHAPES: Final = 50_000
_MOST_LINES: Final = 8
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:[.,:]\d+)*")


def differences(bad: LogReader, good: LogReader, bad_lines: Iterable[str], good_lines: Iterable[str]) -> Iterator[str]:
    """The first differences of *bad* from *good*: arguments, what they call by name, sizes, phases, and lines only *bad* has."""
    seen, wanted = _Seen(good_lines), _Seen(bad_lines)
    for name in sorted(wanted.arguments.keys() | seen.arguments.keys()):
        mine, theirs = wanted.arguments.get(name, "(not given)"), seen.arguments.get(name, "(not given)")
        if mine != theirs:
            yield f"argument {name}: {mine}, and {theirs} in the good one"
    for name in sorted(bad.words.keys() & good.words.keys()):
        if bad.words[name] != good.words[name]:
            yield f"{name}: {bad.words[name]}, and {good.words[name]} in the good one"
    for name in sorted(bad.figures.keys() & good.figures.keys()):
        if bad.figures[name] != good.figures[name]:
            yield f"{name}: {bad.figures[name]:g}, and {good.figures[name]:g} in the good one"
    if bad.phase != good.phase:
        yield f"it came as far as phase {bad.phase}, the good one to {good.phase}"
    only = [text for shape, text in wanted.shapes.items() if shape not in seen.shapes]
    for text in only[:_MOST_LINES]:
        yield f"only here: {text[:240]}"
    if len(only) > _MOST_LINES:
        yield f"and {len(only) - _MOST_LINES} more kinds of lines that the good one has not"


class _Seen:
    """The kinds of lines of one log, and its arguments."""

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
