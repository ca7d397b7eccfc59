"""
Read the record of an engine version: command line flags, metrics, KV cache dtypes and architectures.

``python -m tests.engine_version`` makes the files `backends/ENGINE/versions/X.Y.Z.toml` from the engine's wheel.
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
"""Whether a parser takes a word for one of its flags; ``ambiguous``: several flags begin with it."""


LATER_NAMES: Mapping[str, Mapping[str, str]] = {
    "sglang": {
        "tensor-parallel-size": "tp-size",
        "pipeline-parallel-size": "pp-size",
        "data-parallel-size": "dp-size",
        "expert-parallel-size": "ep-size",
    }
}
"""
Flags whose first spelling changed. Rows of older versions get the newest name, so that only one name is looked up.
"""


@dataclass(frozen=True)
class EngineVersion:
    """One recorded version of an engine, whose file is read at the first use."""

    engine: str
    version: str
    path: Path

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """
        The whole file of an engine version: tables ``parser``, ``values``, ``requires``, ``removed``, ``flags``,
        ``metrics``, ``environment``, ``literals``.
        """
        return self._renamed(self.path.read_text(encoding="utf-8"))

    @cached_property
    def command_line(self) -> Mapping[str, Any]:
        """Only the version's tables before ``metrics``, which take a third of the time to read."""
        return self._renamed(self.path.read_text(encoding="utf-8").partition("\n[metrics]\n")[0])

    def _renamed(self, text: str) -> Mapping[str, Any]:
        """Return the tables in the *text* of a version's file, with flags renamed as in later versions."""
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
    def architectures(self) -> frozenset[str]:
        """Architectures for which this version has a class, as a config.json names them."""
        return frozenset(self.command_line["values"]["architectures"])

    @property
    def removed(self) -> Mapping[str, str]:
        """
        Architectures that this version removed, with the last version that had each; empty for SGLang, which keeps no
        such list.
        """
        found: Mapping[str, str] = self.command_line["removed"]
        return found

    @property
    def transformers(self) -> str:
        """The range of Transformers that this version requires."""
        return str(self.command_line["requires"]["transformers"])

    @cached_property
    def spellings(self) -> Mapping[str, str]:
        """Every spelling of a flag in this version, with its dashes, and the name of its row in the table ``flags``."""
        found: dict[str, str] = {}
        for name, row in self.command_line["flags"].items():
            found |= dict.fromkeys((f"--{name}", *row.get("also", ()), *row.get("no", ())), name)
        return found

    def flag(self, word: str) -> Mapping[str, Any] | None:
        """
        Return the row of the flag that this version's parser reads in *word*, as in ``--tp=4``; None if no flag
        matches.
        """
        names = self._named(word)
        return self.command_line["flags"][names.pop()] if len(names) == 1 else None

    def negative(self, word: str) -> str | None:
        """Return the flag that switches *word* off, as ``--no-async-scheduling``; None if this version has none."""
        found: str | None = next(iter((self.flag(word) or {}).get("no", ())), None)
        return found

    def takes(self, word: str) -> Taken:
        """Return whether *word* is one flag of this version's parser, an ambiguous abbreviation, or unknown."""
        names = self._named(word)
        return "known" if len(names) == 1 else "ambiguous" if names else "unknown"

    def candidates(self, word: str) -> list[str]:
        """Return the flags of this version, with their dashes, that begin with *word*."""
        return sorted(f"--{name}" for name in self._named(word))

    def _named(self, word: str) -> set[str]:
        """
        Return the flags that *word* may stand for: the flag of that name, or all flags that begin with it, as in
        argparse.
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
    """Return the recorded versions of *engine*, the oldest first; empty if none is recorded."""
    if not engine.isidentifier():
        return ()
    paths = (Path(__file__).parent / engine / "versions").glob("*.toml")
    return tuple(
        sorted((EngineVersion(engine, path.stem, path) for path in paths), key=lambda one: Version(one.version))
    )


def meant(engine: str, wanted: str | None) -> tuple[EngineVersion, ...]:
    """Return the recorded versions of *engine* in the range *wanted*; only the newest if no range is given."""
    every = recorded(engine)
    return every[-1:] if wanted is None else tuple(one for one in every if in_range(one.version, wanted))
