"""Compare two readings of the same texts: the drift from the reference, and the noise of the reference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from pytest_longctx.client.drift.bound import divergence
from pytest_longctx.client.drift.readings import READS, Readings
from pytest_longctx.client.drift.scores import Array, Scores
from pytest_longctx.errors import ResultsError

RESOLUTION_NATS: Final = 1e-9
"""A mean divergence below this is rounding of float32 log-probabilities. Ratios use at least this much noise."""
APART: Final = 3.0
"""
A repeat counts as drifted above this ratio of drift to noise. Means of pairs of reads at the same positions differ by
less.
"""
_FIRST_TOKENS: Final = 16
"""End of the first stretch of a curve. Each later stretch ends twice as far from the start."""


class Stretch(NamedTuple):
    """A part of a curve over the distance from the start of a text."""

    from_tokens: int
    to_tokens: int
    """The first position after the stretch."""
    drift_nats: float
    noise_nats: float
    argmax_changed: float
    """Share of the stretch's positions with different most probable tokens."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between the readings of two servers."""

    metrics: dict[str, float | None]
    curve: tuple[Stretch, ...]


class _Pairs(NamedTuple):
    """
    Pairs of reads of the same texts, one alone and one beside other requests. Each array has the shape (repeats, texts,
    positions).
    """

    nats: Array
    changed: Array
    """Whether the most probable tokens differ."""
    lost: Array
    """How much less probable the text's own token is, in nats."""
    unnamed: Array


def compare(reference: Readings, other: Readings) -> Comparison:
    """
    Return the difference between the readings *other* and the *reference*. Each repeat has two reads of each server.

    For the drift and for the noise, one read of a pair was alone and one in company, so company affects both equally.
    Raises `ResultsError` if the readings are of different texts, or of different numbers of reads.
    """
    count = len(reference.reads)
    if reference.texts != other.texts or count != len(other.reads) or count % READS or not count:
        raise ResultsError("the two readings have different texts or different numbers of reads")
    noise, drift = _paired(reference, reference), _paired(reference, other)
    drifts, noises = (np.mean(each.nats, axis=(1, 2)) for each in (drift, noise))
    apart = drifts > APART * np.maximum(noises, RESOLUTION_NATS)
    mean, mean_noise = float(drifts.mean()), float(noises.mean())
    metrics: dict[str, float | None] = {
        "drift_nats": mean,
        "drift_p999_nats": float(np.percentile(drift.nats, 99.9)),
        "drift_noise_nats": mean_noise,
        "drift_noise_p999_nats": float(np.percentile(noise.nats, 99.9)),
        "drift_ratio": mean / max(mean_noise, RESOLUTION_NATS),
        "argmax_changed_share": float(drift.changed.mean()),
        "argmax_noise_share": float(noise.changed.mean()),
        "text_lost_nats": float(drift.lost.mean()),
        "unnamed_share": float(drift.unnamed.mean()),
        "drift_positions": float(drift.nats[0].size),
        "drift_repeats": float(len(drifts)),
        "drift_repeats_apart": float(apart.sum()),
    }
    return Comparison(metrics, tuple(_stretches(drift, noise)))


def _paired(one: Readings, other: Readings) -> _Pairs:
    """
    Return the comparison of each read of *one*, alone or beside others, with the opposite read of *other*, in both
    orders.
    """
    repeats: list[list[Any]] = [
        [_both(one, other, at, text) for text in range(len(one.reads[0]))] for at in range(0, len(one.reads), READS)
    ]
    return _Pairs(*(np.array([[each[part] for each in texts] for texts in repeats]) for part in range(4)))


def _both(one: Readings, other: Readings, at: int, text: int) -> tuple[Array, Array, Array, Array]:
    first, second = (_pair(one.reads[at + i][text], other.reads[at + 1 - i][text]) for i in (0, 1))
    nats, changed, lost, unnamed = ((a + b) / 2 for a, b in zip(first, second, strict=True))
    return nats, changed, lost, unnamed


def _pair(one: Scores, other: Scores) -> tuple[Array, Array, Array, Array]:
    found = divergence(one, other)
    lost = one.said.astype(np.float64) - other.said.astype(np.float64)
    return found.nats, (one.argmax != other.argmax).astype(np.float64), lost, found.unnamed


def _stretches(drift: _Pairs, noise: _Pairs) -> Iterator[Stretch]:
    """
    Yield the curve of the divergence over the distance from the start of a text. The first token of a text has no
    prediction.
    """
    count, begin = drift.nats.shape[2], 0
    end = _FIRST_TOKENS - 1
    while begin < count:
        some = np.s_[:, :, begin : min(end, count)]
        drifted, noisy, changed = (float(each[some].mean()) for each in (drift.nats, noise.nats, drift.changed))
        yield Stretch(begin + 1, min(end, count) + 1, drifted, noisy, changed)
        begin, end = end, 2 * end + 1
