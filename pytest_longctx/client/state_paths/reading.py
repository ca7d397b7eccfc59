"""Readings on a state path, their cold controls, and the figures that compare both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from pytest_longctx.client.answer_tokens import TIE_NATS, Difference, first_difference, logprob_gap
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.state_paths.tasks import Task

NOISE_FACTOR: Final = 4.0
"""
Largest difference of a log-probability on a path, as a multiple of the noise of cold readings.

Cold readings, one alone and one in company, differ in the shape of their batches. A path divides the prompt at other
borders, so its rounding differs too, by the same mechanism.
"""


@dataclass(frozen=True, slots=True)
class Pieces:
    """
    Sizes in tokens of the parts into which an engine divides a context; None for a size that is unknown or does not
    exist.
    """

    block: int | None = None
    chunk: int | None = None
    window: int | None = None

    def containing(self, position: int) -> str:
        """Return, as text, the block, the chunk and the window of the token at *position* (from 0) of a reading's prompt."""
        sizes = (("block", self.block), ("chunk", self.chunk), ("window", self.window))
        found = [f"{name} {position // size} (of {size:,} tokens)" for name, size in sizes if size]
        return f"token {position:,} of the prompt" + (f", in {', '.join(found)}" if found else "")


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer on a state path."""

    task: Task
    exchange: Exchange
    reusable: int = 0
    """Tokens at the start of the prompt that may be cached: earlier prompts with the same salt had them too."""
    shared: int = 0
    """
    Number of tokens at the start of the prompt that an earlier context (prompt and answer) with the same salt also had.

    It is more than `reusable` if prompts agree by chance, or if the engine has computed the last token of an answer.
    """
    whole_only: bool = True
    """
    Whether the cache must have all reusable tokens except the tokens of the last, incomplete block. If False, the cache
    may have lost some.
    """
    ends_inside: bool = False
    """
    Whether every earlier context with the same salt continues differently after the shared tokens, so that none ends
    there.
    """
    prefilled: int = 0
    """Tokens at the start of the prompt that an earlier prompt with the same salt had, without its answer."""

    @property
    def answer_ids(self) -> list[int] | None:
        """Token ids of the reading's answer; None if the server does not name them and they are not provable."""
        names = [token.name.rpartition(":")[2] for token in self.exchange.tokens]
        if names and all(name.isdigit() for name in names):
            return [int(name) for name in names]
        grade = self.task.grade(self.exchange.text)
        if self.task.question is not None and grade is not None and grade.sound:
            return list(self.task.question.answer)
        return None

    def hit_share(self, block: int) -> float | None:
        """
        Return the share of the reusable tokens, in whole blocks of *block* tokens, that came from the cache; None
        without such tokens, or if unknown.
        """
        most = min(self.reusable, len(self.task.prompt) - 1) // block * block
        cached = self.exchange.usage.cached_tokens
        return None if not most or cached is None or not self.whole_only else cached / most

    def without_answer(self, block: int) -> bool:
        """
        Return whether the cache had all whole blocks of an earlier prompt, but not the blocks that its answer
        completed.
        """
        cached, prompt = self.exchange.usage.cached_tokens, self.prefilled // block * block
        return (
            cached is not None and prompt <= cached < self.reusable // block * block and self.prefilled < self.reusable
        )

    @property
    def foreign_tokens(self) -> int | None:
        """
        Number of cached tokens beyond those of any earlier context: from another prompt, or never computed; None if
        unknown.
        """
        cached = self.exchange.usage.cached_tokens
        return None if cached is None else max(0, cached - max(self.reusable, self.shared))


def differences(
    readings: Sequence[Reading], colds: Mapping[str, Sequence[Exchange]]
) -> Iterator[tuple[Reading, Difference]]:
    """Yield each reading whose answer differs from the first cold reading of the prompt, with the first difference."""
    for each in readings:
        for cold in colds.get(each.task.name, ())[:1]:
            warm = each.exchange
            if (found := first_difference(cold.tokens, warm.tokens, cold.text, warm.text)) is not None:
                yield each, found


def place(each: Reading, found: Difference, pieces: Pieces) -> str:
    """
    Return, as text, the place of *found* in the context of a reading, and the needle that the token reads, if the
    answer is provable.
    """
    needle = each.task.needle_at(found.index)
    where = f"; it reads {pieces.containing(needle.position)}" if needle else ""
    said = str(found).partition(" (two")[0]
    return f"a prompt of {len(each.task.prompt):,} tokens, {each.exchange.usage.cached_tokens} of them cached: {said}{where}"


def wrong_needles(readings: Sequence[Reading], pieces: Pieces) -> Iterator[str]:
    """Yield a line for each reading with wrong needles: how many are wrong, and the place of the first."""
    for each in readings:
        grade = each.task.grade(each.exchange.text)
        if grade is not None and not grade.sound:
            first = next(iter(grade.failures), None)
            where = f"; the first: {pieces.containing(first.needle.position)}" if first else ""
            cached = each.exchange.usage.cached_tokens
            yield f"a prompt of {len(each.task.prompt):,} tokens, {cached} of them cached: {grade}{where}"


def noise_nats(colds: Mapping[str, Sequence[Exchange]]) -> float | None:
    """
    Return the largest difference of a log-probability between cold readings of one prompt; None if no prompt was read
    cold twice.
    """
    gaps = [
        gap
        for exchanges in colds.values()
        for one, other in combinations(exchanges, 2)
        if (gap := logprob_gap(one.tokens, other.tokens)) is not None
    ]
    return max(gaps, default=None)


def gap_nats(readings: Sequence[Reading], colds: Mapping[str, Sequence[Exchange]]) -> float | None:
    """
    Return the largest difference of a log-probability between a reading and its nearest cold reading; None without
    log-probabilities.
    """
    gaps = [
        min(found)
        for each in readings
        if (
            found := [
                gap
                for cold in colds.get(each.task.name, ())
                if (gap := logprob_gap(cold.tokens, each.exchange.tokens)) is not None
            ]
        )
    ]
    return max(gaps, default=None)


def allowed_nats(noise: float) -> float:
    """Return the largest log-probability difference that rounding explains: `TIE_NATS`, or `NOISE_FACTOR` times *noise*."""
    return max(TIE_NATS, NOISE_FACTOR * noise)


def unstable(colds: Mapping[str, Sequence[Exchange]]) -> str:
    """
    Return, as text, the place where two cold readings of one prompt differ although no choice was close; empty if there
    is no such place.
    """
    for exchanges in colds.values():
        for one, other in combinations(exchanges, 2):
            found = first_difference(one.tokens, other.tokens, one.text, other.text)
            if found is not None and not found.tied:
                return f"two cold answers to one prompt differ: {found}"
    return ""
