"""
Grade an answer, needle by needle, and read the precision ladder.

An answer names its key and is graded by key, so one wrong word does not hide the next. Only an answer about another key
than the one asked, which a correct engine cannot give, ends the chain. Needles not asked for after that count as not
reached, which differs from lost.

The ladder measures how many mantissa bits of a key are preserved in the KV cache.

Rung k is a needle whose stored key has the elements 1 and 1 + 2^-k. Its ask reads only the difference, amplified by 2^k. A
preserved difference scores as high as any match; a difference lost to rounding scores zero, like filler. So the highest
preserved rung equals the number of mantissa bits: 7 for BF16, 10 for FP16, 3 for E4M3, 2 for E5M2 (1 + 2^-(m+1) lies midway
between two numbers of m bits and is rounded to the even one, 1).
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
Outcomes of a needle.

``lost``: the answer states that nothing carries this key, or the heads disagree. ``wrong value``: every head read a needle
of this key that is not in this prompt, so memory of another prompt was read, or memory was mixed up.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One needle and the outcome of the answer for it."""

    needle: Needle
    depth: float
    outcome: Outcome
    said: int | None = None
    """Answered value, if any."""


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of one answer: the outcome for each needle."""

    steps: tuple[Step, ...] = field(repr=False)
    """Steps by key."""
    denied: bool | None
    """
    Whether the key without a needle was answered with "none". ``None`` if every key had a needle, or if this key was
    not reached.
    """
    derailed_at: int | None
    """Index, from 0, of the first word that answers another key than the one asked."""

    def count(self, outcome: Outcome) -> int:
        """Return the number of needles with this *outcome*."""
        return sum(step.outcome == outcome for step in self.steps)

    @property
    def failures(self) -> tuple[Step, ...]:
        """Return every needle that was not answered correctly, by position."""
        failed = [step for step in self.steps if step.outcome != "right"]
        return tuple(sorted(failed, key=lambda step: step.needle.position))

    @property
    def sound(self) -> bool:
        """Whether every needle is right and no value was invented for the key without a needle."""
        return not self.failures and self.denied is not False and self.derailed_at is None

    def __str__(self) -> str:
        failed = self.failures
        parts = [f"{self.count('right')} of {len(self.steps)} needles right"]
        for outcome in ("lost", "wrong value", "not reached"):
            these = [step for step in failed if step.outcome == outcome]
            if these:
                first, last = these[0], these[-1]
                where = f"token {first.needle.position:,} ({first.depth:.1%})"
                until = f" to {last.needle.position:,} ({last.depth:.1%})" if len(these) > 1 else ""
                parts.append(f"{len(these)} {outcome}, {where}{until}")
        if self.denied is False:
            parts.append("a key without a needle was answered with a value")
        if self.derailed_at is not None:
            parts.append(f"word {self.derailed_at} answers another key than the one asked")
        return "; ".join(parts)


def text(question: Question, answered: str) -> Grade:
    """Return the grade of *answered*, the streamed text of an answer about needles."""
    return _grade(question, codes.read(answered))


def ids(question: Question, answered: Iterable[int]) -> Grade:
    """Return the grade of an answer about needles, given as token ids."""
    return _grade(question, codes.read_ids(answered))


def _grade(question: Question, answered: Sequence[Said | None]) -> Grade:
    answered = answered[: question.output_tokens]
    by_key: dict[int, Said] = {}
    for each in answered:
        if each is not None and each.kind in {"answer", "none"}:
            by_key.setdefault(each.index, each)
    absent = by_key.get(len(question.needles))
    return Grade(
        steps=tuple(_step(question, needle, by_key.get(needle.key)) for needle in question.needles),
        denied=absent.kind == "none" if absent and len(question.needles) < codes.KEYS else None,
        derailed_at=next((i for i, each in enumerate(answered) if each is None or each.index != i), None),
    )


def _step(question: Question, needle: Needle, answered: Said | None) -> Step:
    outcome: Outcome = (
        "not reached"
        if answered is None
        else "lost"
        if answered.value is None
        else "right"
        if answered.value == needle.value
        else "wrong value"
    )
    return Step(needle, question.depth(needle.position), outcome, answered.value if answered else None)


OUTPUT_TOKENS = RUNGS

_ORDER = (*range(1, RUNGS + 1, 2), *range(RUNGS - 1, 0, -2))
"""
Placement of the rungs in the context. The coarse rungs are outermost. An engine that loses either end of the context then
loses a coarse rung and keeps finer ones, which is no valid ladder. Otherwise the loss of fine rungs would look like
rounding.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """A prompt with every rung of the precision ladder. Rung k is at ``places[k - 1]``."""

    prompt: Prompt
    places: tuple[int, ...] = field(repr=False)
    output_tokens: int = OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class Precision:
    """
    The result of the precision ladder: for each rung, from 1 bit up, whether it was preserved; ``None`` if not
    answered.
    """

    kept: tuple[bool | None, ...]

    @property
    def mantissa_bits(self) -> int | None:
        """
        Number of mantissa bits that the ladder shows to be stored; ``None`` if the answer is not a valid ladder.

        If no rung is preserved, or a rung above a lost one is preserved, the cause is not rounding. If all rungs
        are preserved, the result is a lower bound.
        """
        height = next((i for i, kept in enumerate(self.kept) if not kept), len(self.kept))
        return height if height and not any(self.kept[height:]) and None not in self.kept else None

    @property
    def breaks(self) -> int | None:
        """
        Number of rungs that are preserved above a lost rung: 0 if keys were only rounded; ``None`` if a rung was not
        answered.

        A value above 0 means that keys are read back as other numbers, for example if written in one format and
        read in another.
        """
        if None in self.kept:
            return None
        height = self.kept.index(False) if False in self.kept else len(self.kept)
        return sum(map(bool, self.kept[height:]))

    @property
    def relative_step(self) -> float | None:
        """Step between neighbouring numbers just above 1; None if the number of mantissa bits is unknown."""
        return None if self.mantissa_bits is None else 2.0**-self.mantissa_bits

    def __str__(self) -> str:
        rungs = "".join("?" if kept is None else "-+"[kept] for kept in self.kept)
        bits = self.mantissa_bits
        return f"{rungs}: " + ("not a ladder" if bits is None else f"{bits} mantissa bits")


def plant(filler: Prompt) -> Ladder:
    """
    Return the precision ladder whose answer `ladder_text` grades: a copy of *filler* with all rungs, spread over its
    length.

    The ask is the last token. Raises `PromptError`.
    """
    places = questions.spread(len(filler), RUNGS)
    questions.check(filler, places, RUNGS, RUNGS)
    by_rung = dict(zip(_ORDER, places, strict=True))
    ids = {place: codes.RUNG + bits - 1 for bits, place in by_rung.items()}
    prompt = questions.planted_in(filler, ids, codes.ASK_RUNG, "a ladder")
    return Ladder(prompt, tuple(by_rung[bits] for bits in range(1, RUNGS + 1)))


def ladder_text(answered: str) -> Precision:
    """Return the precision that the streamed text *answered* indicates."""
    return _precision(codes.read(answered))


def ladder_ids(answered: Iterable[int]) -> Precision:
    """Return the precision that the answered token ids indicate."""
    return _precision(codes.read_ids(answered))


def _precision(answered: Sequence[Said | None]) -> Precision:
    rungs = {
        each.index: each.kind == "kept" for each in answered if each is not None and each.kind in {"kept", "erased"}
    }
    return Precision(tuple(rungs.get(bits) for bits in range(1, RUNGS + 1)))
