"""A hard limit on tokens and money. Each request reserves its share before it is sent, so the limit is never exceeded."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from pytest_longctx import units
from pytest_longctx.errors import LongctxError, UsageError

_PER: Final = 1_000_000
"""Prices per million tokens."""
DEFAULT_TOKENS: Final = 2_000_000


class OverBudget(LongctxError):  # noqa: N818 - it states why a request was not sent
    """A request was not sent, because it could exceed the budget."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens; None for an unknown price."""

    prompt: float | None = None
    answer: float | None = None

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float | None:
        """Return the cost of these tokens at the prices of a budget; None if a price is unknown."""
        if self.prompt is None or self.answer is None:
            return None
        return (prompt_tokens * self.prompt + answer_tokens * self.answer) / _PER


@dataclass(slots=True)
class Budget:
    """
    The limit of a certificate run: tokens of prompts and answers together, money, or both.

    Every request counts, also a refused one and a repetition after a 429, although most providers do not bill these.
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
        """Tokens spent: the larger of the reserved number and the server's count."""
        return self.prompt_tokens + self.answer_tokens

    @property
    def cost(self) -> float | None:
        """Money spent of the budget so far; None without prices."""
        return self.prices.cost(self.prompt_tokens, self.answer_tokens)

    def left(self) -> int:
        """Return the number of prompt tokens that the budget still allows."""
        limits = [] if self.tokens is None else [self.tokens - self.spent]
        cost = self.cost
        if self.money is not None and cost is not None and self.prices.prompt:
            limits.append(int((self.money - cost) / self.prices.prompt * _PER))
        return max(0, min(limits, default=2**53))

    def reserve(self, prompt_tokens: int, answer_tokens: int) -> Callable[[int, int], None]:
        """
        Reserve the most tokens that one request can use. Return a function that replaces the reserved tokens by the
        server's counts.

        Raises `OverBudget` if the request exceeds the budget. The caller must not send it then.
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
            raise OverBudget(f"the budget of ${self.money:.2f} does not cover another request of {wanted:,} tokens")


def parse(text: str, prices: Prices) -> Budget:
    """
    Return the budget that *text* names on the command line: ``2M``, ``2M-tokens`` or ``$5``. Raises `UsageError`.

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
