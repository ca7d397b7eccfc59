"""Prompts of a requested length in the server's tokens, calibrated with the server's token counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_longctx.certificate.dialects import Turn
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.texts import OPENING_WORDS, WORDS, filler

_SIZES = (32, 64, 128)
"""Words of the calibration prompts. The second step is twice the first, so that a rounded count shows."""
_TAILS = ".!?;,"
_ASK_AGAIN = 3
"""Number of times that a prompt is sent if its answer has no usage."""

_LEAST_PER_WORD = 0.25
"""Least tokens per filler word. A server that counts every prompt as one token would otherwise get endless texts."""

Count = Callable[[tuple[Turn, ...], int], int | None]
"""Returns the server's count of a prompt. The second argument is the most tokens that the prompt can have."""


@dataclass(frozen=True, slots=True)
class Ruler:
    """The law of prompt lengths, tokens = base + per_word x filler words, and its error."""

    words: tuple[str, ...]
    base: float
    per_word: float
    slack: float
    """The largest error of the law in the calibration, in tokens; 0 for an exact law."""
    counted: bool
    """Whether the law comes from counts. If not, one word is taken as one token."""
    source: str
    """Source of the counts: the server's usage, a tokenizer, or none."""
    tails: tuple[str, ...] = ("",)
    """Texts that add 0, 1, 2 ... tokens, for filler words of several tokens."""
    points: tuple[tuple[int, int], ...] = ()
    """Words and counts of the calibration."""
    why: str = ""
    """The reason why nothing is counted."""

    @property
    def exact(self) -> bool:
        return self.counted and self.slack == 0

    @property
    def least(self) -> int:
        """Length in tokens of the shortest prompt that the ruler can make."""
        return int(np.ceil(self.tokens_of(OPENING_WORDS)))

    def tokens_of(self, words: int) -> float:
        return self.base + self.per_word * words

    def turns(self, rng: np.random.Generator, tokens: int) -> tuple[Turn, ...]:
        """
        Return a prompt of *tokens*. The length is exact if the law is exact and a tail text fits, otherwise up to one
        word shorter.
        """
        words = max(1, int((tokens - self.base) // self.per_word))
        rest = round(tokens - self.tokens_of(words)) if self.exact else 0
        return filler(rng, self.words, words, tail=self.tails[rest] if rest < len(self.tails) else "")

    def made(self, tokens: int) -> int:
        """Return the number of tokens of the prompt that `Ruler.turns` makes for *tokens*."""
        words = max(1, int((tokens - self.base) // self.per_word))
        rest = round(tokens - self.tokens_of(words)) if self.exact else 0
        return round(self.tokens_of(words)) + (rest if rest < len(self.tails) else 0)

    @property
    def interval(self) -> str:
        """Text that states how exact the ruler's lengths are."""
        if self.exact:
            return f"exact: one filler word is {self.per_word:g} of the server's tokens" + self._origin
        if self.counted:
            return (
                f"within {self.slack:.1f} tokens and 0.5 % ({self.per_word:.4g} tokens for each filler word)"
                + self._origin
            )
        return f"not calibrated: {self.why}; lengths are in filler words; each has one token or more"

    @property
    def unit(self) -> str:
        """Unit of the ruler's lengths: tokens or words."""
        return "tokens" if self.counted else "words of filler"

    @property
    def _origin(self) -> str:
        return "" if self.source == "usage" else f", by {self.source}"


def calibrate(rng: np.random.Generator, count: Count, source: str) -> Ruler | None:
    """
    Return a calibrated ruler: filler words with equal token counts, the tokens per word, and the tokens of the chat
    template. None if the server does not count prompts.
    """
    found = _law(rng, WORDS, count, source)
    if found is None:
        return None
    if not found.exact:
        # Words of one length in letters may still differ in tokens: keep those that count alike.
        alone = {word: count(filler(rng, (word,), _SIZES[1]), 16 * _SIZES[1]) for word in WORDS}
        values = [value for value in alone.values() if value is not None]
        most = max(set(values), key=values.count, default=None)
        alike = tuple(word for word, value in alone.items() if value == most)
        if 2 <= len(alike) < len(WORDS):
            found = _law(rng, alike, count, source) or found
    return _with_tails(rng, found, count)


def uncounted(why: str) -> Ruler:
    """Return a ruler that counts words, for a server that does not count prompts. *why* is the reason."""
    return Ruler(WORDS, 0, 1.0, 0, counted=False, source="none", why=why)


def _law(rng: np.random.Generator, words: tuple[str, ...], count: Count, source: str) -> Ruler | None:
    points: list[tuple[int, int]] = []
    for size in (*_SIZES, _SIZES[0]):
        value = count(filler(rng, words, size), 16 * size)
        if value is None:
            return None
        points.append((size, value))
    slope, base = np.polyfit([size for size, _ in points], [value for _, value in points], 1)
    step = (points[1][1] - points[0][1]) / (_SIZES[1] - _SIZES[0])
    if step >= 1 and step.is_integer():
        start = points[0][1] - step * _SIZES[0]
        if all(value == start + step * size for size, value in points):
            return Ruler(words, start, step, 0.0, counted=True, source=source, points=tuple(points))
    slope = max(float(slope), _LEAST_PER_WORD)
    slack = max(abs(value - base - slope * size) for size, value in points)
    return Ruler(words, float(base), slope, max(1.0, slack), counted=True, source=source, points=tuple(points))


def _with_tails(rng: np.random.Generator, law: Ruler, count: Count) -> Ruler:
    """Return a ruler with texts of 1, 2 ... tokens in addition, for words that have several tokens."""
    if not law.exact or not 1 < law.per_word <= 16:
        return law
    wanted = int(law.tokens_of(_SIZES[0]))
    for mark in _TAILS:
        tails = [mark * times for times in range(int(law.per_word))]
        if all(
            count(filler(rng, law.words, _SIZES[0], tail=tail), wanted + len(tail)) == wanted + times
            for times, tail in enumerate(tails)
            if times
        ):
            return Ruler(
                law.words,
                law.base,
                law.per_word,
                0.0,
                counted=True,
                source=law.source,
                tails=tuple(tails),
                points=law.points,
            )
    return law


def by_asking(ask: Callable[[tuple[Turn, ...], int], Reply]) -> Count:
    """Return the server's token count of a prompt from usage. Repeat the request if the answer has no usage."""

    def count(turns: tuple[Turn, ...], most: int) -> int | None:
        replies: Sequence[Reply] = []
        for _ in range(_ASK_AGAIN):
            reply = ask(turns, most)
            replies = [*replies, reply]
            if reply.prompt is not None:
                return reply.prompt
            if not reply.served:
                return None
        return None

    return count
