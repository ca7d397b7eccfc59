"""Tokens of two answers to one prompt with their log-probabilities, and the first difference between the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

TIE_NATS: Final = 0.1
"""
Two log-probabilities whose difference is below this, in nats, may change their order with the shape of the batch.

Neighbouring BF16 numbers from 8 to 16, the usual size of a logit, are 2^-4 = 0.0625 apart. The engine computes a warm
prompt in other pieces than a cold one, so a logit may differ by one step.
"""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    name: str
    """The server's name of the token: its text, or ``token_id:N``."""
    logprob: float | None = None
    """Natural logarithm of the token's probability; None if not reported."""
    runner_up: float | None = None
    """Log-probability of the most probable other token."""

    @property
    def tied(self) -> bool:
        """Whether another token was nearly as probable, so that rounding may decide between them."""
        return self.logprob is not None and self.runner_up is not None and self.logprob - self.runner_up < TIE_NATS


def tokens_of(choice: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a streamed chunk from the log-probabilities of completions or chats."""
    told = choice.get("logprobs")
    if not isinstance(told, dict):
        return []
    if told.get("content"):
        rows = [(each["token"], each.get("logprob"), _others(each.get("top_logprobs"))) for each in told["content"]]
    else:
        names, tops = told.get("tokens") or [], told.get("top_logprobs") or []
        rows = list(zip(names, told.get("token_logprobs") or [], [*tops, *[None] * len(names)], strict=False))
    return [Token(name, logprob, _runner_up(name, top)) for name, logprob, top in rows]


def _others(top: object) -> dict[str, float]:
    return {each["token"]: each["logprob"] for each in top} if isinstance(top, list) else {}


def _runner_up(name: str, top: Mapping[str, float] | None) -> float | None:
    return max((logprob for other, logprob in (top or {}).items() if other != name), default=None)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference between two answers to one prompt."""

    place: str
    """The place in words, for example ``token 3 of the answer``."""
    first: str
    second: str
    index: int
    """Index of the differing token in the answer, from 0. If the tokens are unknown, index of the differing character."""
    tied: bool = False
    """Whether the first answer had two nearly equal choices at this place. The difference then proves nothing."""

    def __str__(self) -> str:
        tie = " (two choices were nearly equal there: rounding may decide)" if self.tied else ""
        return f"from {self.place} on {self.second!r} instead of {self.first!r}{tie}"


def first_difference(
    first: Sequence[Token], second: Sequence[Token], first_text: str = "", second_text: str = ""
) -> Difference | None:
    """Return the first difference of two answers, by tokens if both have them, else by text; None if they are equal."""
    if first and second:
        for index, (one, other) in enumerate(zip_longest(first, second)):
            if one is None or other is None or one.name != other.name:
                said, instead = (each.name if each else "the end" for each in (one, other))
                return Difference(f"token {index} of the answer", said, instead, index, one is not None and one.tied)
        return None
    if first_text == second_text:
        return None
    pairs = enumerate(zip_longest(first_text, second_text))
    index = next(index for index, (one, other) in pairs if one != other)
    return Difference(f"character {index} of the answer", _from(first_text, index), _from(second_text, index), index)


def _from(text: str, index: int) -> str:
    return text[index : index + 24]


def logprob_gap(first: Sequence[Token], second: Sequence[Token]) -> float | None:
    """
    Return the largest difference between the log-probabilities of equal tokens, or of the second choices, before the
    answers differ.

    In nats; None if no token has log-probabilities. If an answer is nearly certain, only the second choice shows how
    certain.
    """
    gaps: list[float] = []
    for one, other in zip(first, second, strict=False):
        if one.name != other.name:
            break
        for a, b in ((one.logprob, other.logprob), (one.runner_up, other.runner_up)):
            if a is not None and b is not None:
                gaps.append(abs(a - b))
    return max(gaps, default=None)
