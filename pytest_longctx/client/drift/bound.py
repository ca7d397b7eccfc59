"""
A lower bound of the KL divergence of two distributions, from their most probable tokens alone.

Both servers name only some tokens. The tokens are divided into cells with a probability on both servers: one cell for
each token that both name, one for each token that only the reference names, and one for all others. By the
data-processing inequality, the divergence of the cells is at most the divergence of the distributions.

The other server gives a token that it does not name at most the probability of its least probable named token. Among
all probabilities within that limit, the bound takes those with the least divergence. So it never overstates the
divergence. It is exact if both servers name the same tokens and each other token is equally probable on both.
"""

from typing import Final, NamedTuple

import numpy as np

from pytest_longctx.client.drift.scores import Array, Scores

RESOLVED: Final = 1e-5
"""
Differences below this in the mass of all other tokens are rounding: the mass is one minus a sum of float32 numbers.
"""
_SMALLEST: Final = 1e-300
"""
Lowest probability of a named token, because vLLM writes a log-probability of -9999 for zero. This limit only lowers the
divergence.
"""
_AT_ONCE: Final = 4096
"""Positions computed at once. The pairs of named tokens then take 15 MB."""


class Divergence(NamedTuple):
    """Divergence of two servers' scores of one text, at each position."""

    nats: Array
    """Lower bound of the KL divergence from the reference to the other, in nats."""
    unnamed: Array
    """
    Probability that the reference gives to tokens that only one server names. The bound limits only their share of the
    divergence.
    """


def divergence(reference: Scores, other: Scores) -> Divergence:
    """
    Return the divergence of the scores *other* from those of the *reference*. Raises `ValueError` if they score
    different texts.
    """
    if not np.array_equal(reference.said_ids, other.said_ids):
        raise ValueError("the scores are of different texts")
    parts = [_of_some(_Named.of(reference, some), _Named.of(other, some)) for some in _slices(reference.positions)]
    if not parts:
        return Divergence(np.empty(0), np.empty(0))
    return Divergence(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _slices(count: int) -> list[slice]:
    return [slice(at, min(at + _AT_ONCE, count)) for at in range(0, count, _AT_ONCE)]


class _Named(NamedTuple):
    """The named tokens at some positions: the most probable ones, and the token of the text in the last column."""

    ids: Array
    probabilities: Array
    least: Array
    """Highest possible probability of a token that is not named: the probability of the last named token."""

    @classmethod
    def of(cls, scores: Scores, some: slice) -> "_Named":
        top = np.maximum(np.exp(scores.logprobs[some].astype(np.float64)), _SMALLEST)
        said_ids = scores.said_ids[some, None]
        repeated = (scores.ids[some] == said_ids).any(axis=1, keepdims=True)
        # A token of the text that is among the most probable ones is not counted twice.
        ids = np.concatenate((scores.ids[some], np.where(repeated, -1, said_ids)), axis=1)
        said = np.maximum(np.exp(scores.said[some, None].astype(np.float64)), _SMALLEST)
        return cls(ids, np.concatenate((top, np.where(repeated, 0.0, said)), axis=1), top[:, -1:])


def _of_some(one: _Named, other: _Named) -> Divergence:
    same = (one.ids[:, :, None] == other.ids[:, None, :]) & (one.ids >= 0)[:, :, None]
    both = same.any(axis=2)
    theirs = np.where(same, other.probabilities[:, None, :], 0.0).sum(axis=2)
    p_both, q_both = np.where(both, one.probabilities, 0.0), np.where(both, theirs, 0.0)
    alone = np.where(both, 0.0, one.probabilities)
    rest = np.maximum(0.0, 1.0 - p_both.sum(axis=1) - alone.sum(axis=1))
    left = np.maximum(0.0, 1.0 - q_both.sum(axis=1))
    q_alone, q_rest = nearest(alone, rest, left, other.least)
    cells = term(p_both, q_both).sum(axis=1) + term(alone, q_alone).sum(axis=1)
    others = np.where(np.abs(rest - q_rest) < RESOLVED, 0.0, term(rest, q_rest))
    return Divergence(cells + others, np.clip(1.0 - p_both.sum(axis=1), 0.0, 1.0))


def term(p: Array, q: Array) -> Array:
    """
    Return the share of one cell in a KL divergence: p log(p / q) - p + q. No share is negative, and the shares sum to
    the divergence.

    >>> bool(term(np.array([0.5]), np.array([0.5]))[0] == 0), bool(np.isinf(term(np.array([0.5]), np.array([0.0]))[0]))
    (True, True)
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    found: Array = np.maximum(0.0, ratio - p + q)
    return found


def nearest(alone: Array, rest: Array, left: Array, most: Array) -> tuple[Array, Array]:
    """
    Return the probabilities with the least divergence that the other server may give to tokens that it does not name.

    *alone*: the reference's probabilities, one row for each position. *rest*: its probability of all other tokens.
    *left*: the other server's probability of both together. No token of *alone* can have more than *most* of it. All other
    tokens share *left* in proportion.
    """
    falling = -np.sort(-alone, axis=1)
    count = alone.shape[1]
    capped = np.arange(count + 1)
    taken = np.concatenate((np.zeros((len(alone), 1)), np.cumsum(falling, axis=1)), axis=1)
    share = np.maximum(0.0, alone.sum(axis=1, keepdims=True) - taken) + rest[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(share > 0, np.maximum(0.0, left[:, None] - capped * most) / share, np.inf)
        largest = np.concatenate((falling, np.zeros((len(alone), 1))), axis=1)
        fits = np.where(largest > 0, largest * scale, 0.0) <= most
    chosen = np.take_along_axis(scale, fits.argmax(axis=1)[:, None], axis=1)
    with np.errstate(invalid="ignore"):
        q_alone = np.where(alone > 0, np.minimum(most, alone * chosen), 0.0)
    return q_alone, np.maximum(0.0, left - q_alone.sum(axis=1))
