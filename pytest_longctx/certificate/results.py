"""Checks and their verdicts as values. `checks.toml` has the table of checks."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Word = Literal["holds", "broken", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check in the table of checks."""

    id: str
    group: str
    asserts: str
    do: str
    """Advice for the provider if the check is broken."""
    explained_by: tuple[str, ...] = ()
    """Checks that can cause the same fault. If one of them is broken, this check is unmeasured."""


@dataclass(frozen=True, slots=True)
class Result:
    """The verdict of one check."""

    check: str
    word: Word
    seen: str
    """The observation, in one sentence."""
    asked: str = ""
    allowed: str = ""
    because: str = ""
    """The reason why the check is unmeasured."""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> Check:
        return checks()[self.check]

    def as_json(self) -> dict[str, Any]:
        about = self.about
        do = {"do": about.do} if self.word == "broken" else {}
        return {"group": about.group, "asserts": about.asserts, **asdict(self), **do}

    def lines(self) -> Iterator[str]:
        """Yield the result of one check as lines for a terminal and for JUnit."""
        yield f"{self.check}: {self.about.asserts}: {self.word}"
        rows = (("asked", self.asked), ("seen", self.seen), ("allowed", self.allowed), ("because", self.because))
        yield from (f"  {word:<8} {text}" for word, text in rows if text)
        if self.word == "broken":
            yield f"  do       {self.about.do}"


def holds(check: str, seen: str, asked: str = "", **figures: Any) -> Result:
    """Return the result of a certificate's *check* that the endpoint passes."""
    return Result(check, "holds", seen, asked, figures=figures)


def broken(check: str, seen: str, allowed: str, asked: str = "", **figures: Any) -> Result:
    """Return the result of a certificate's *check* that the endpoint fails."""
    return Result(check, "broken", seen, asked, allowed, figures=figures)


def unmeasured(check: str, because: str, seen: str = "", **figures: Any) -> Result:
    """Return the result of a certificate's *check* that could not be measured."""
    return Result(check, "unmeasured", seen, because=because, figures=figures)


@lru_cache(maxsize=1)
def checks() -> Mapping[str, Check]:
    """Return every check of a certificate by its id, in order."""
    table = tomllib.loads(Path(__file__).with_name("checks.toml").read_text(encoding="utf-8"))
    return {
        f"{group}-{name}": Check(
            f"{group}-{name}", group, entry["asserts"], entry["do"], tuple(entry.get("explained_by", ()))
        )
        for group, entries in table.items()
        for name, entry in entries.items()
    }


def explained(results: Iterable[Result]) -> Iterator[Result]:
    """
    Yield the *results* with one broken check for each fault. A check that another broken check explains becomes
    unmeasured.
    """
    given = list(results)
    wrong = {each.check for each in given if each.word == "broken"}
    for each in given:
        causes = [name for name in each.about.explained_by if name in wrong]
        if each.word == "broken" and causes:
            because = f"{causes[0]} is broken; this explains the result of this check too"
            yield Result(each.check, "unmeasured", each.seen, each.asked, because=because, figures=each.figures)
        else:
            yield each
