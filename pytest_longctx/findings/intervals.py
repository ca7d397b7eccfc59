"""The confidence interval of a mean score, from the number of answers and the sum of their scores."""

import math
from typing import Final

_STEPS: Final = 60
_TERMS: Final = 400
_SMALLEST: Final = 1e-300


def interval(total: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Return the Clopper-Pearson interval of a mean score, from the sum *total* of *count* scores of 0 to 1.

    The interval is exact if each answer is right or wrong. Scores between 0 and 1 vary less around the same mean, so
    the interval is wider than necessary for them.

    >>> [round(end, 3) for end in interval(9, 10)]
    [0.555, 0.997]
    """
    tail = (1 - confidence) / 2
    low = 0.0 if total <= 0 else _quantile(tail, total, count - total + 1)
    high = 1.0 if total >= count else _quantile(1 - tail, total + 1, count - total)
    return low, high


def _quantile(share: float, a: float, b: float) -> float:
    """Return the value below which *share* of a beta distribution with *a* and *b* lies, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if beta_share(middle, a, b) < share else (low, middle)
    return (low + high) / 2


def beta_share(x: float, a: float, b: float) -> float:
    """Return the share of a beta distribution with *a* and *b* below *x*: the regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - beta_share(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b))
    return front / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """
    Return the denominator 1 + d1 / (1 + d2 / (1 + ...)) of the continued fraction of `beta_share` (DLMF 8.17.22), by
    the method of Lentz.
    """
    value = upper = 1.0
    lower = 0.0
    for term in range(1, _TERMS):
        half, odd = divmod(term, 2)
        if odd:
            part = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            part = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        lower = 1 / _nonzero(1 + part * lower)
        upper = _nonzero(1 + part / upper)
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _SMALLEST else _SMALLEST
