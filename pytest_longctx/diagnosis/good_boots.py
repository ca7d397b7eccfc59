"""Keep the log of the last good boot of each deployment between runs, and compare a failed boot with it."""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Final

from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing import quoting
from pytest_longctx.diagnosis.parsing.records import records
from pytest_longctx.measures import MEASURES
from pytest_longctx.redaction import masked

_MOST_BYTES: Final = 4 << 20
"""Ten times the log of a boot."""
_ARGUMENTS = re.compile(r"(?:non-default args: |server_args=ServerArgs\(|args: Namespace\()(?P<dump>.*)")
_ONE = re.compile(
    r"""(?<!\w)(?P<name>\w{1,80})['"]?\s?[:=]\s?"""
    r"""(?P<value>'[^']{0,4000}'|"[^"]{0,4000}"|\[[^\]]{0,4000}\]|\{[^}]{0,4000}\}|[^,)}]+)"""
)
"""One argument; the limits keep a line of 64 KiB from taking minutes."""
_MOST_SHAPES: Final = 50_000
_MOST_LINES: Final = 8
_NEAR: Final = 0.01
_ALWAYS_OTHER: Final = frozenset(("port", "nccl_port", "dist_init_addr", "random_seed", "engine_id"))
"""Settings that differ in every boot: the launcher sets them, or SGLang at random."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+(?:[.,:]\d+)*")


@dataclass(frozen=True, slots=True)
class GoodBoots:
    """Store of the logs of good boots, one for each deployment of a backend."""

    folder: Path

    def path(self, backend: str, deployment: str) -> Path:
        """Return the path for the log of the last good boot of *deployment*, which may not exist."""
        return self.folder / f"{backend}-{deployment}.log"

    def keep(self, log: Path, backend: str, deployment: str, secrets: tuple[str, ...] = ()) -> None:
        """Store *log*, with *secrets* masked, as the log of the last good boot. Without a writable folder, do nothing."""
        kept = self.path(backend, deployment)
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            with log.open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace")
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=kept.parent, delete=False) as made:
                made.write(masked(text, secrets))
            Path(made.name).replace(kept)

    def compared(self, bad: LogReader, log: Path, backend: str, deployment: str) -> list[str]:
        """
        Return the differences of the failed boot *bad*, whose log is at *log*, from the last good boot; empty without
        one.
        """
        kept = self.path(backend, deployment)
        try:
            good = read_file(kept, bad.catalogue, bad.version)
            with log.open(encoding="utf-8", errors="replace") as mine, kept.open(encoding="utf-8") as theirs:
                return list(differences(bad, good, mine, theirs))
        except OSError:
            return []


def differences(bad: LogReader, good: LogReader, bad_lines: Iterable[str], good_lines: Iterable[str]) -> Iterator[str]:
    """
    Return the differences of the failed boot *bad* from the last good boot *good*, in this order:

    arguments, named facts such as versions, figures that differ by more than one per cent, the phase reached, and the
    first kinds of lines that only *bad* has. Times and ports are omitted, because they differ between any two boots.
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
    """The kinds of lines and the arguments in one log."""

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
