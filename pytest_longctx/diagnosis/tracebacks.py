"""Tracebacks in a log, each of one process, with prefixes on their lines."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_longctx.diagnosis.parsing.records import ERROR, Record
from pytest_longctx.diagnosis.signatures import Phase, Place, Signature

HEADER: Final = "Traceback (most recent call last)"
FRAME = re.compile(r"\s*(?:\| \s*)?File \"[^\"]+\", line \d+")
GROUP = re.compile(r"^ +[|+] ?")
ENDS_IN = re.compile(r"^(?:(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*|[A-Z]\w*)(?:: .*|:)?$")
EXCEPTION = re.compile(
    r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]*(?:Error|Exception|Exit|Interrupt|Failure|Abort)(?:: |:$|$|\()"
    r"|^[\w.]+\.exc(?:eptions?)?\.\w+(?:: |$)|^Exception(?:: |$)"
)
INDENTED: Final = re.compile(r"^\s+(?:[A-Za-z_]\w*\.)+\w*(?:Error|Exception): ")
"""An exception's last line in a traceback that was indented as a whole. Source code has no such line."""
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


@dataclass(slots=True)
class Trace:
    """A traceback while it is read."""

    record: Record
    caught: bool
    places: dict[str, Place] = field(default_factory=dict)
    """The innermost place of each class that places refine."""
    phase: Phase | None = None
    """The phase of the innermost place."""
    done: bool = False
    chained: bool = False
    lines: int = 0
    message: int = 0
    failure: object = None
    tail: list[str] = field(default_factory=list)
    frame: str = ""
    """The last frame."""

    def raised(self, signature: Signature) -> bool:
        """Whether the traceback's exception was raised where *signature* requires."""
        if signature.placed and signature.kind not in self.places:
            return False
        inside, outside = signature.raised_in, signature.not_raised_in
        if outside is not None and re.search(outside, self.frame):
            return False
        return inside is None or re.search(inside, self.frame) is not None

    def level(self, record: Record) -> int | None:
        """The level of *record*, a line of the traceback: its own, or the level of the line in which the traceback begins."""
        return self.record.level if record.level is None else record.level

    def tells(self, record: Record) -> bool:
        """Whether *record* ends a traceback that is logged below ERROR: the program caught the exception and went on."""
        return (self.level(record) or ERROR) < ERROR

    def holds(self, record: Record) -> bool:
        """Whether *record* can be a line of this process's traceback."""
        mine, outer = self.record.kinds, record.kinds
        if record.bare or (len(outer) < len(mine) and mine[: len(outer)] == outer):
            return True
        return (
            record.where == self.record.where and record.kinds == self.record.kinds and record.kinds[-1:] in _REPEATING
        )


_TUPLE = re.compile(
    r"^((?:[A-Za-z_]\w*\.)*\w+(?:Error|Exception)): (\((?:'[^']*'|\"[^\"]*\")(?:, (?:'[^']*'|\"[^\"]*\"))+,?\))$"
)


_ADDRESS = re.compile(r"^((?:[A-Za-z_]\w*\.)*\w+(?:Error|Exception): )\[address=[^\]]*\] ")
"""The address that a library of actors (xoscar) puts before the words of an exception."""
_SHOWN = re.compile(r"^([A-Z]\w*(?:Error|Exception))\((['\"])(.*)\2,?\)$")
"""An exception as Python's `repr` shows it."""
_TYPES: Final = ("RuntimeError", "ValueError", "AssertionError", "TypeError", "KeyError", "NotImplementedError")
"""The types of exceptions that rules name most, in that order."""


def worded(because: str | None) -> Iterator[str]:
    """
    Return the forms in which the exception *because* may end its traceback: unchanged, and with each common type if a
    wrapper omitted the type.

    >>> list(worded("CUDA error: invalid argument"))[:2]
    ['CUDA error: invalid argument', 'RuntimeError: CUDA error: invalid argument']
    >>> list(worded("ValueError('too long')"))
    ['ValueError: too long']
    """
    if because is None:
        return
    if shown := _SHOWN.match(because):
        because = f"{shown[1]}: {shown[3]}"
    yield because
    if not EXCEPTION.match(because):
        yield from (f"{name}: {because}" for name in _TYPES)


def joined(text: str) -> str:
    """
    Return the last line of a traceback without an actor's address. A message that is a tuple of strings is joined.

    >>> joined("RuntimeError: ('not supported for ', 'this GPU.')")
    'RuntimeError: not supported for this GPU.'
    """
    text = _ADDRESS.sub(r"\1", text) if "[address=" in text else text
    found = _TUPLE.match(text.rstrip()) if ": (" in text else None
    return text if found is None else f"{found[1]}: {''.join(ast.literal_eval(found[2]))}"


_REPEATING: Final = (("engine",), ("glog",), ("logging",), ("json",), ("python",), ("tensorrt",))
"""Loggers that put their prefix before every line of a message."""
