"""
Reads what a version of an engine contributes: its command line flags, metrics and KV cache dtypes.

The files `backends/ENGINE/versions/X.Y.Z.toml` are made from the engine's wheel by ``python -m tests.engine_version``.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version

from pytest_longctx.toml import in_range

Taken = Literal["known", "ambiguous", "unknown"]
"""Whether a parser takes a word for one of its flags; ``ambiguous``: it is the beginning of several."""


LATER_NAMES: Mapping[str, Mapping[str, str]] = {
    "sglang": {
        "tensor-parallel-size": "tp-size",
        "pipeline-parallel-size": "pp-size",
        "data-parallel-size": "dp-size",
        "expert-parallel-size": "ep-size",
    }
}
"""Flags whose first spelling changed: rows of older versions are named as those of the newest, so that one name is looked for."""


@dataclass(frozen=True)
class EngineVersion:
    """One recorded version of an engine; its file is read when it is first asked."""

    engine: str
    version: str
    path: Path

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """
        The whole file of an engine version: tables ``parser``, ``values``, ``flags``, ``metrics``,
        ``environment``, ``literals``.
        """
        return self._renamed(self.path.read_text(encoding="utf-8"))

    @cached_property
    def command_line(self) -> Mapping[str, Any]:
        """The version's tables ``parser``, ``values`` and ``flags`` alone, which take a third of the time to read."""
        return self._renamed(self.path.read_text(encoding="utf-8").partition("\n[metrics]\n")[0])

    def _renamed(self, text: str) -> Mapping[str, Any]:
        """The tables in the *text* of a version's file, with flags under the names of later versions."""
        found = tomllib.loads(text)
        for old, new in LATER_NAMES.get(self.engine, {}).items():
            if f"--{new}" in found["flags"].get(old, {}).get("also", ()):
                row = found["flags"].pop(old)
                found["flags"][new] = {
                    **row,
                    "also": [f"--{old}", *(each for each in row["also"] if each != f"--{new}")],
                }
        return found

    @cached_property
    def spellings(self) -> Mapping[str, str]:
        """Every spelling of a flag in this version, with its dashes, and the name of its row in the table ``flags``."""
        found: dict[str, str] = {}
        for name, row in self.command_line["flags"].items():
            found |= dict.fromkeys((f"--{name}", *row.get("also", ()), *row.get("no", ())), name)
        return found

    def flag(self, word: str) -> Mapping[str, Any] | None:
        """
        The row of the flag that this version's parser takes *word* for, as in ``--tp=4``; None where it takes
        it for none.
        """
        names = self._named(word)
        return self.command_line["flags"][names.pop()] if len(names) == 1 else None

    def takes(self, word: str) -> Taken:
        """Whether this version's parser takes *word* for one of its flags."""
        names = self._named(word)
        return "known" if len(names) == 1 else "ambiguous" if names else "unknown"

    def candidates(self, word: str) -> list[str]:
        """The flags of this version, with their dashes, that *word* is the beginning of."""
        return sorted(f"--{name}" for name in self._named(word))

    def _named(self, word: str) -> set[str]:
        """
        The flags of this version that *word* may stand for: one by its whole name, else all that begin with
        it, as argparse reads it.
        """
        parser, spelt = self.command_line["parser"], word.partition("=")[0]
        if spelt.startswith("--"):
            spelt = spelt.partition(".")[0] if parser["dotted_keys"] else spelt
            spelt = spelt.replace("_", "-") if parser["underscores"] else spelt
        if spelt in self.spellings:
            return {self.spellings[spelt]}
        if not (parser["allow_abbrev"] and spelt.startswith("--")):
            return set()
        return {name for spelling, name in self.spellings.items() if spelling.startswith(spelt)}


@cache
def recorded(engine: str) -> tuple[EngineVersion, ...]:
    """The recorded versions of *engine*, the oldest first; empty for an engine of which none is recorded."""
    if not engine.isidentifier():
        return ()
    paths = (Path(__file__).parent / engine / "versions").glob("*.toml")
    return tuple(
        sorted((EngineVersion(engine, path.stem, path) for path in paths), key=lambda one: Version(one.version))
    )


def meant(engine: str, wanted: str | None) -> tuple[EngineVersion, ...]:
    """The recorded versions of *engine* in the range *wanted*; the newest alone where no range is given."""
    every = recorded(engine)
    return every[-1:] if wanted is None else tuple(one for one in every if in_range(one.version, wanted))
