"""
One probe for each family of attention: the layer for each key, the span of each layer, and its tensors.

Every layer that keeps a cache or a state answers for its own share of the keys, so a fault in one layer loses only the
needles of this layer. See ``docs/reference/probe-families.md``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pytest_longctx.probe.codes import KEYS
from pytest_longctx.probe.weights import Matrix

Kind = Literal["full", "sliding", "latent", "delta", "mamba2"]
"""Kind of a layer: softmax attention over everything or over a window, latent attention, Gated DeltaNet, Mamba2."""

LONGEST: int = 1_056_768
"""``max_position_embeddings`` of every family: 1 Mi tokens and room for an answer."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that answers questions for *keys*."""

    index: int
    """Number of the layer in the checkpoint."""
    kind: Kind
    keys: tuple[int, ...]
    window: int | None = None
    """Number of tokens that the layer sees, the asking one included; None for all of them."""
    lag: int = 0
    """Number of tokens after which a recurrent layer writes a needle into its state."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The probe of one family: its configuration, the layers that answer, and the function that makes its tensors."""

    config: Mapping[str, Any] = field(repr=False)
    layers: tuple[Layer, ...]
    build: Callable[["Family"], Mapping[str, Matrix]] = field(repr=False)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return every tensor of the checkpoint of a probe family by name, in BF16."""
        return {name: matrix.astype(ml_dtypes.bfloat16) for name, matrix in self.build(self).items()}

    def layer_of(self, key: int) -> Layer:
        """Return the layer that answers for *key*, 0 to 63."""
        return next(layer for layer in self.layers if key in layer.keys)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """For each key, the number of tokens that its layer sees, the asking token included; None for all tokens."""
        return tuple(self.layer_of(key).window for key in range(KEYS))


def shared_out(kinds: Sequence[tuple[int, Kind]], window: int | None = None) -> tuple[Layer, ...]:
    """
    Return the 64 keys of a probe family, distributed over layers given as number and kind. *window* is the window of
    sliding layers.

    Key 63 goes to the first of *kinds*, and so on downwards. A probe with fewer than 64 needles asks last for a key
    without a needle. The first layer should therefore have a window, because a needle beyond a window must be denied.
    The first of several recurrent layers writes latest: key k is asked for k tokens after the ask, and must have been
    written by then.
    """
    shares = [tuple(sorted(range(KEYS - 1 - number, -1, -len(kinds)))) for number in range(len(kinds))]
    lags = [min(3, len(kinds) - 1 - number) for number in range(len(kinds))]
    return tuple(
        Layer(
            index,
            kind,
            keys,
            window if kind == "sliding" else None,
            lag if kind in {"delta", "mamba2"} else 0,
        )
        for (index, kind), keys, lag in zip(kinds, shares, lags, strict=True)
    )
