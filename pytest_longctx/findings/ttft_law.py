"""The law of time to first token over prompt length, and its fit to measured times."""

from collections.abc import Sequence
from typing import NamedTuple


class Law(NamedTuple):
    """Time to first token over prompt length N: ``t = linear_s x N + quadratic_s x N^2``, per token and per token squared."""

    linear_s: float
    quadratic_s: float

    def seconds(self, tokens: int) -> float:
        """Return the TTFT in seconds that the fitted law gives for a prompt of *tokens*."""
        return self.linear_s * tokens + self.quadratic_s * tokens**2


def fit(points: Sequence[tuple[int, float]]) -> Law:
    """
    Return the law of TTFT over prompt length that fits *points* (tokens, seconds) best, by least squares of the
    relative error.

    Short prompts then count as much as long ones. Raises ValueError for fewer than two different lengths.
    """
    if len({tokens for tokens, _ in points}) < 2:
        raise ValueError("a formula with two terms needs two different prompt lengths")
    import numpy as np  # noqa: PLC0415 - this module is read wherever a verdict is shown, and few of those need a law

    # t / t_i = 1 with columns N / t_i and N^2 / t_i; lengths in millions keep them well conditioned.
    millions, seconds = np.array(points, dtype=float).T / [[1e6], [1.0]]
    (linear_s, quadratic_s), *_ = np.linalg.lstsq(
        np.stack((millions, millions**2), axis=1) / seconds[:, None], np.ones(len(points)), rcond=None
    )
    return Law(float(linear_s) / 1e6, float(quadratic_s) / 1e12)
