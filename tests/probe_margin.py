"""
How sure the probe's answer is, and up to which length: closed forms.

A match scores s = 64 q k / sqrt(head_dim); every other token scores at most m, which is 0 for orthogonal codes. Of N
tokens the match then gets the attention weight w >= 1 / (1 + (N - 1) e^(m - s)), and the answer is right as long as w is
at least `needed_weight`. Temperature tuning multiplies both scores by a number >= 1 and is left out.
"""

import math

import numpy as np
import numpy.typing as npt

from pytest_longctx.probe import codes, weights
from pytest_longctx.probe.codes import WIDTH
from pytest_longctx.probe.weights import Family
from tests import kv_rounding

_ROUNDINGS = 3
"""Of BF16 between an attention weight and a logit: the head's output, the final norm, the logit itself."""


def largest_ask(family: Family, bits: int) -> float:
    """The largest element of the query that asks for the rung of so many *bits*, where temperature tuning is left out."""
    return family.query_gain * 2 * 2.0**bits


def scores(family: Family, kv: str = "bfloat16") -> npt.NDArray[np.float32]:
    """What the ask for key i (row) scores on a needle of key j (column), with keys as *kv* stores them."""
    code = codes.hadamard()
    scale = np.float32(family.query_gain / math.sqrt(family.head_dim))
    return scale * (code @ kv_rounding.stored(code, kv).T)


def match_score(family: Family, kv: str = "bfloat16") -> float:
    """The lowest score of a match."""
    return float(np.diag(scores(family, kv)).min())


def worst_miss(family: Family, kv: str = "bfloat16") -> float:
    """The highest score of a needle of another key, or of filler, which is 0."""
    others = scores(family, kv)
    return max(0.0, float(others[~np.eye(WIDTH, dtype=bool)].max()))


def attention_weight(family: Family, tokens: int, kv: str = "bfloat16") -> float:
    """The least weight of the match among *tokens* tokens."""
    return 1 / (1 + (tokens - 1) * math.exp(worst_miss(family, kv) - match_score(family, kv)))


def needed_weight() -> float:
    """
    The weight from which on the answer beats "none", whatever BF16 rounds on the way.

    Two fetched codes of weight w against `weights.NONE_READS`, both beside the ask's own code: 1 + 2 w against 2.875,
    either off by three roundings of 2^-9.
    """
    error = _ROUNDINGS * 2.0**-9
    return (((1 + weights.NONE_READS) * (1 + error) / (1 - error)) - 1) / 2


def longest_context(family: Family, kv: str = "bfloat16") -> int:
    """The most tokens of context for which the answer is guaranteed."""
    needed = needed_weight()
    margin = match_score(family, kv) - worst_miss(family, kv)
    return 1 + math.floor(math.exp(margin) * (1 - needed) / needed)
