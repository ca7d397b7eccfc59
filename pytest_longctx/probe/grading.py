"""
What an answer was worth, needle by needle.

An answer names its key, so it is graded by key: one wrong word does not hide the next. Only an answer about another key
than was asked, which a sound engine cannot give, ends the chain; needles that were then never asked for are not
reached, which is not the same as lost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import Said
from pytest_longctx.probe.questions import Needle, Question

Outcome = Literal["right", "lost", "wrong value", "not reached"]
"""
``lost``: it answered that nothing carries this key, or its heads did not agree. ``wrong value``: every head read a
needle of this key that this prompt does not have, so another prompt's, or memory was mixed up.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One needle and what became of it."""

    needle: Needle
    depth: float
    outcome: Outcome
    said: int | None = None
    """The value answered, where one was."""


@dataclass(frozen=True, slots=True)
class Grade:
    """An answer, graded."""

    steps: tuple[Step, ...] = field(repr=False)
    """By key."""
    denied: bool | None
    """Whether the key that was not planted was answered with "none"; None where all keys were, or it was not reached."""
    derailed_at: int | None
    """The first word, from 0, that does not answer the key asked."""

    def count(self, outcome: Outcome) -> int:
        """How many needles came to *outcome*."""
        return sum(step.outcome == outcome for step in self.steps)

    @property
    def failures(self) -> tuple[Step, ...]:
        """Every needle that was not answered right, by position."""
        failed = [step for step in self.steps if step.outcome != "right"]
        return tuple(sorted(failed, key=lambda step: step.needle.position))

    @property
    def first_failure(self) -> Step | None:
        """The first wrong step in the order of the answer."""
        return next((step for step in self.steps if step.outcome != "right"), None)

    @property
    def sound(self) -> bool:
        """Every needle right, and nothing made up for the key that was not there."""
        return not self.failures and self.denied is not False and self.derailed_at is None

    def __str__(self) -> str:
        failed = self.failures
        said = [f"{self.count('right')} of {len(self.steps)} needles right"]
        for outcome in ("lost", "wrong value", "not reached"):
            these = [step for step in failed if step.outcome == outcome]
            if these:
                first, last = these[0], these[-1]
                where = f"token {first.needle.position:,} ({first.depth:.1%})"
                until = f" to {last.needle.position:,} ({last.depth:.1%})" if len(these) > 1 else ""
                said.append(f"{len(these)} {outcome}, {where}{until}")
        if self.denied is False:
            said.append("a key that was not planted was answered with a value")
        if self.derailed_at is not None:
            said.append(f"word {self.derailed_at} answers another key than was asked")
        return "; ".join(said)


def text(question: Question, answered: str) -> Grade:
    """The grade of *answered*, the streamed text."""
    return _grade(question, codes.read(answered))


def ids(question: Question, answered: Iterable[int]) -> Grade:
    """The grade of *answered*, token ids."""
    return _grade(question, codes.read_ids(answered))


def _grade(question: Question, said: Sequence[Said | None]) -> Grade:
    said = said[: question.output_tokens]
    by_key: dict[int, Said] = {}
    for each in said:
        if each is not None and each.kind in {"answer", "none"}:
            by_key.setdefault(each.index, each)
    absent = by_key.get(len(question.needles))
    return Grade(
        steps=tuple(_step(question, needle, by_key.get(needle.key)) for needle in question.needles),
        denied=absent.kind == "none" if absent and len(question.needles) < codes.KEYS else None,
        derailed_at=next((i for i, each in enumerate(said) if each is None or each.index != i), None),
    )


def _step(question: Question, needle: Needle, said: Said | None) -> Step:
    outcome: Outcome = (
        "not reached"
        if said is None
        else "lost"
        if said.value is None
        else "right"
        if said.value == needle.value
        else "wrong value"
    )
    return Step(needle, question.depth(needle.position), outcome, said.value if said else None)
