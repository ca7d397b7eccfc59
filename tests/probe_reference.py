"""
The probe without an engine: its last layer in numpy, with a KV cache that can be inspected and damaged.

Filler has a key and a value of zero. Such tokens are counted, not computed, so that the cost does not grow with the context.
Numbers are rounded as in an engine: to *activations* after each operation, to *kv* in the cache.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pytest_longctx.probe import codes, weights
from pytest_longctx.probe.weights import HEADS, KV_HEADS, Family, Matrix
from pytest_longctx.prompts import Ids
from tests.kv_rounding import stored


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """The last layer's KV cache: entries by position for those of *tokens* tokens that have a key or a value."""

    tokens: int
    positions: npt.NDArray[np.int64] = field(repr=False)
    keys: Matrix = field(repr=False)
    """(positions, KV heads, head_dim)"""
    values: Matrix = field(repr=False)


class Reference:
    """One probe in one pair of number formats."""

    def __init__(self, family: Family, kv: str = "bfloat16", activations: str = "bfloat16") -> None:
        self.family, self.kv, self.activations = family, kv, activations
        self._weights: Mapping[str, Matrix] = weights.in_float32(family)
        self._layer = f"{family.prefix}model.layers.{family.layers - 1}.self_attn."

    def read(self, ids: Ids) -> Cache:
        """Return the cache after the prompt *ids*."""
        positions = np.flatnonzero((ids < codes.FILLER) & (ids >= codes.SPECIAL))
        hidden = self._normed(self._embedded(ids[positions]))
        shape = (len(positions), KV_HEADS, self.family.head_dim)
        keys, values = (
            stored(self._rounded(hidden @ self._projection(name).T), self.kv).reshape(shape) for name in ("k", "v")
        )
        return Cache(len(ids), positions, keys, values)

    def answer(self, cache: Cache, ask: int, output_tokens: int) -> tuple[int, ...]:
        """Return the model's answer after *cache*, whose last token is *ask*. The answer itself adds filler to the cache."""
        said = [ask]
        for extra in range(output_tokens):
            said.append(self._next(cache, said[-1], cache.tokens + extra))
        return tuple(said[1:])

    def _next(self, cache: Cache, token: int, tokens: int) -> int:
        residual = self._embedded(np.array([token], np.uint32))[0]
        hidden = self._normed(residual)
        query = self._rounded(self._projection("q") @ hidden * self._temperature(tokens - 1)).reshape(HEADS, -1)
        mine = np.repeat(np.arange(KV_HEADS), HEADS // KV_HEADS)
        scores = np.einsum("hd,nhd->hn", query, cache.keys[:, mine]) / math.sqrt(self.family.head_dim)
        top = np.maximum(scores.max(axis=1, initial=0.0), 0.0)[:, None]
        heavy = np.exp(scores - top)
        quiet = (tokens - len(cache.positions)) * np.exp(-top)
        share = heavy / (heavy.sum(axis=1, keepdims=True) + quiet)
        fetched = self._rounded(np.einsum("hn,nhd->hd", share, cache.values[:, mine])).reshape(-1)
        residual = self._rounded(residual + self._rounded(self._projection("o") @ fetched))
        return int(
            np.argmax(self._rounded(self._weights[f"{self.family.prefix}lm_head.weight"] @ self._normed(residual)))
        )

    def _embedded(self, ids: npt.NDArray[np.uint32]) -> Matrix:
        return self._weights[f"{self.family.prefix}model.embed_tokens.weight"][ids]

    def _projection(self, name: str) -> Matrix:
        return self._weights[f"{self._layer}{name}_proj.weight"]

    def _normed(self, hidden: Matrix) -> Matrix:
        return self._rounded(hidden / np.sqrt((hidden**2).mean(axis=-1, keepdims=True) + 1e-5))

    def _rounded(self, values: npt.NDArray[np.floating]) -> Matrix:
        return stored(values.astype(np.float32), self.activations)

    def _temperature(self, position: int) -> float:
        """Return the scale factor of the queries at long positions, as in Llama 4's layers without rotary embedding."""
        if self.family.head_dim != weights.LLAMA4.head_dim:
            return 1.0
        return math.log(math.floor((position + 1) / 8192) + 1) * 0.1 + 1
