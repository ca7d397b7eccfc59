"""
What an answer was worth, needle by needle.

An answer names its key, so it is graded by key: one wrong word does not hide the next. Only an answer about another key
than was asked, which a sound engine cannot give, ends the chain; needles that were then never asked for are not
reached, which is not the same as lost.

The ladder: how many mantissa bits of a key come back out of the KV cache, as a number.

Rung k is a needle whose stored key has the elements 1 and 1 + 2^-k. Its ask looks only at the difference, 2^k times
amplified: a difference that survived scores as high as any match, one that was rounded away scores zero, like filler.
So the highest rung kept is the number of mantissa bits: 7 for BF16, 10 for FP16, 3 for E4M3, 2 for E5M2 (1 + 2^-(m+1)
lies midway between two numbers of m bits and is rounded to the even one, 1).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_longctx.probe import codes, questions
from pytest_longctx.probe.codes import RUNGS, Said
from pytest_longctx.probe.questions import Needle, Question
from pytest_longctx.prompts import Prompt

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


OUTPUT_TOKENS = RUNGS

_ORDER = (*range(1, RUNGS + 1, 2), *range(RUNGS - 1, 0, -2))
"""Of the rungs through the context. The coarse ones are outermost: an engine that loses either end of it loses a coarse rung
and keeps finer ones, which is not a ladder, instead of losing fine ones, which would look like rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """A prompt with every rung in it, and where rung k is: ``places[k - 1]``."""

    prompt: Prompt
    places: tuple[int, ...] = field(repr=False)
    output_tokens: int = OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class Precision:
    """What the ladder said: for each rung, from 1 bit up, whether it was kept; None where it was not answered."""

    kept: tuple[bool | None, ...]

    @property
    def mantissa_bits(self) -> int | None:
        """
        Stored mantissa bits; None where the answer is not a ladder.

        A rung that is kept above one that is not, or none kept at all, means that something else than rounding went wrong. All
        rungs kept means at least as many bits as there are rungs.
        """
        height = next((i for i, kept in enumerate(self.kept) if not kept), len(self.kept))
        return height if height and not any(self.kept[height:]) and None not in self.kept else None

    @property
    def breaks(self) -> int | None:
        """
        Rungs kept above one that was lost: 0 where keys were only rounded; None where a rung was not answered.

        Above 0 keys come back as other numbers, as where one format is written and another is read.
        """
        if None in self.kept:
            return None
        height = self.kept.index(False) if False in self.kept else len(self.kept)
        return sum(map(bool, self.kept[height:]))

    @property
    def relative_step(self) -> float | None:
        """The step between neighbouring numbers just above 1."""
        return None if self.mantissa_bits is None else 2.0**-self.mantissa_bits

    def __str__(self) -> str:
        rungs = "".join("?" if kept is None else "-+"[kept] for kept in self.kept)
        bits = self.mantissa_bits
        return f"{rungs}: " + ("not a ladder" if bits is None else f"{bits} mantissa bits")


def plant(filler: Prompt) -> Ladder:
    """Plant every rung in a copy of *filler*, spread over all of it; the ask is its last token. Raises `PromptError`."""
    places = questions.spread(len(filler), RUNGS)
    questions.check(filler, places, RUNGS, RUNGS)
    by_rung = dict(zip(_ORDER, places, strict=True))
    ids = {place: codes.RUNG + bits - 1 for bits, place in by_rung.items()}
    prompt = questions.planted_in(filler, ids, codes.ASK_RUNG, "a ladder")
    return Ladder(prompt, tuple(by_rung[bits] for bits in range(1, RUNGS + 1)))


def ladder_text(answered: str) -> Precision:
    """What the streamed text *answered* says of the cache."""
    return _precision(codes.read(answered))


def ladder_ids(answered: Iterable[int]) -> Precision:
    """The same of token ids."""
    return _precision(codes.read_ids(answered))


def _precision(said: Sequence[Said | None]) -> Precision:
    rungs = {each.index: each.kind == "kept" for each in said if each is not None and each.kind in {"kept", "erased"}}
    return Precision(tuple(rungs.get(bits) for bits in range(1, RUNGS + 1)))
