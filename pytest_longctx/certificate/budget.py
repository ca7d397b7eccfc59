"""A hard budget in tokens and money: reserved before a request is sent, so nothing above it is ever sent."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from pytest_longctx import units
from pytest_longctx.errors import LongctxError, UsageError

_PER: Final = 1_000_000
"""Prices are for a million tokens."""
DEFAULT_TOKENS: Final = 2_000_000


class OverBudget(LongctxError):  # noqa: N818 - it states why a request was not sent
    """A request was not sent, because it could exceed the budget."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Money for a million tokens; None: not known."""

    prompt: float | None = None
    answer: float | None = None

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Cost of these tokens by the prices of a budget; None if a price is not known."""
        if self.prompt is None or self.answer is None:
            return None
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / _PER


@dataclass(slots=True)
class Budget:
    """
    What may be sent: tokens of prompts and answers together, or money, or both.

    Everything sent counts: refused requests and repetitions after a 429 too, although most providers do not bill them.
    """

    tokens: int | None = DEFAULT_TOKENS
    money: float | None = None
    prices: Prices = Prices()
    prompt_tokens: int = 0
    answer_tokens: int = 0
    requests: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def spent(self) -> int:
        """Tokens spent of the budget: reserved so far, or counted by the server if that is more."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def cost(self) -> float | None:
        """Money spent of the budget so far; None without prices."""
        return self.prices.cost(self.prompt_tokens, self.answer_tokens)

    def left(self) -> int:
        """Prompt tokens left in the budget."""
        limits = [] if self.tokens is None else [self.tokens - self.spent]
        cost = self.cost
        if self.money is not None and cost is not None and self.prices.prompt:
            limits.append(int((self.money - cost) / self.prices.prompt * _PER))
        return max(0, min(limits, default=2**53))

    def reserve(self, prompt_tokens: int, answer_tokens: int) -> Callable[[int, int], None]:
        """
        Reserve in the budget the most that one request can use, and return the function that replaces it by
        the server's counts.

        Raises `OverBudget` if it does not fit; the request must not be sent then.
        """
        with self._lock:
            self._check(prompt_tokens, answer_tokens)
            self.prompt_tokens += prompt_tokens
            self.answer_tokens += answer_tokens
            self.requests += 1

        def settle(prompt: int, answer: int) -> None:
            with self._lock:
                self.prompt_tokens += prompt - prompt_tokens
                self.answer_tokens += answer - answer_tokens

        return settle

    def _check(self, prompt_tokens: int, answer_tokens: int) -> None:
        wanted = prompt_tokens + answer_tokens
        if self.tokens is not None and self.spent + wanted > self.tokens:
            raise OverBudget(
                f"the budget of {self.tokens:,} tokens has {self.tokens - self.spent:,} left; a request needs up to {wanted:,}"
            )
        cost = self.prices.cost(self.prompt_tokens + prompt_tokens, self.answer_tokens + answer_tokens)
        if self.money is not None and (cost is None or cost > self.money):
            raise OverBudget(f"the budget of ${self.money:.2f} does not cover a request of {wanted:,} more tokens")


def parse(text: str, prices: Prices) -> Budget:
    """
    Parse a budget as typed: ``2M`` or ``2M-tokens``, or ``$5``. Raises `UsageError`.

    >>> parse("2M-tokens", Prices()).tokens, parse("$5", Prices(1, 2)).money
    (2000000, 5.0)
    """
    if money := re.fullmatch(r"\s*\$\s*([0-9]{1,9}(?:\.[0-9]{1,4})?)\s*", text):
        if None in (prices.prompt, prices.answer):
            raise UsageError("--budget in money needs --price-in and --price-out, in $ for a million tokens")
        return Budget(None, float(money[1]), prices)
    try:
        count = units.tokens(re.sub(r"[-_ ]?tokens?\s*$", "", text))
    except ValueError as problem:
        raise UsageError(f"--budget: {problem}; or $5 with --price-in and --price-out") from None
    return Budget(count, None, prices)
