"""
Recurrent layers of the probe families: Gated DeltaNet and Mamba2 as memories without decay.

Keys and values are one-hot, so the activation after the convolution (0 at 0) keeps them orthogonal. The decay is
exactly 1 in FP32: A_log is -100, and exp(-exp(-100) dt) is 1. Filler writes exactly nothing. So a state holds what was
written once, at any distance. Its capacity is its number of orthogonal keys: the key dimension of a head for Gated
DeltaNet, the state size for Mamba2.

A layer with a lag of d reads the needle d tokens later, from its convolution window. The state of the convolution must
therefore survive every border too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import KEYS, VALUES, WIDTH
from pytest_longctx.probe.layout import ASK, ASKING, CONSTANT, GOT_KEY, GOT_VALUE, KEY, VALUE, WRITTEN
from pytest_longctx.probe.softmax import one_hot
from pytest_longctx.probe.weights import Matrix

SIZE = 8.0
"""Size of an element that is not 0. SiLU of 8 is 7.997, which is 8 in BF16."""

FOREVER = -100.0
"""A_log of a state without decay."""

_ALL = tuple(range(KEYS))


@dataclass(frozen=True, slots=True)
class Delta:
    """Sizes of a Gated DeltaNet layer."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    """128 at least: 64 for the key and 64 for the value."""
    kernel: int = 4


@dataclass(frozen=True, slots=True)
class Scan:
    """Sizes of a Mamba2 layer."""

    heads: int
    head_dim: int
    state: int
    groups: int
    kernel: int = 4


def gated_delta(sizes: Delta, keys: Sequence[int], lag: int, hidden: int) -> dict[str, Matrix]:
    """
    Return the matrices of a Gated DeltaNet layer for *keys*: q, k, v, z, b, a by head, the convolution and the output.

    The write strength is 1 in every token. A token without a key writes nothing, because its key is 0.
    """
    query = np.zeros((sizes.key_heads, sizes.key_dim, hidden), np.float32)
    key, value = np.zeros_like(query), np.zeros((sizes.value_heads, sizes.value_dim, hidden), np.float32)
    gate, beta = np.zeros_like(value), np.zeros((sizes.value_heads, hidden), np.float32)
    query[:, :, ASK] = key[:, :, KEY] = one_hot(keys, sizes.key_dim, SIZE)
    value[:, :WIDTH, KEY] = value[:, WIDTH : WIDTH + VALUES, VALUE] = one_hot(_ALL, WIDTH, SIZE)
    gate[:, :, ASKING] = _of(ASKING, 4, SIZE)
    beta[:, CONSTANT] = _of(CONSTANT, 2, 2 * SIZE)
    keyed, valued = sizes.key_heads * sizes.key_dim, sizes.value_heads * sizes.value_dim
    taps = np.zeros((2 * keyed + valued, 1, sizes.kernel), np.float32)
    taps[:keyed, :, -1] = 1
    taps[keyed:, :, -1 - lag] = 1
    # Two equal elements of a head are normed to sqrt(dim / 2) each, and multiplied by the gate.
    read = SIZE * np.sqrt(sizes.value_dim / 2) * sizes.value_heads
    out = np.zeros((hidden, sizes.value_heads, sizes.value_dim), np.float32)
    for got, start in ((GOT_KEY, 0), (GOT_VALUE, WIDTH)):
        out[got, :, start : start + WIDTH] = codes.hadamard().T[:, None] * WRITTEN / read
    return {
        "q": query,
        "k": key,
        "v": value,
        "z": gate,
        "b": beta,
        "a": np.zeros_like(beta),
        "conv": taps,
        "out": out.reshape(hidden, -1),
        "A_log": np.full(sizes.value_heads, FOREVER, np.float32),
        "dt_bias": np.ones(sizes.value_heads, np.float32),
        "norm": np.ones(sizes.value_dim, np.float32),
    }


def mamba2(sizes: Scan, keys: Sequence[int], lag: int, hidden: int) -> dict[str, Matrix]:
    """
    Return the tensors of one Mamba2 layer for *keys*, by their names in a checkpoint.

    Even heads hold the key, odd heads the value. The norm before the output brings one element in each head to 8.
    """
    inner, states = sizes.heads * sizes.head_dim, sizes.groups * sizes.state
    gate = np.zeros((inner, hidden), np.float32)
    gate[:, ASKING] = _of(ASKING, 4, SIZE)
    kept = np.zeros((sizes.heads, sizes.head_dim, hidden), np.float32)
    kept[0::2, :WIDTH, KEY] = kept[1::2, :WIDTH, VALUE] = one_hot(_ALL, WIDTH, SIZE)
    stored, asked = (np.zeros((sizes.groups, sizes.state, hidden), np.float32) for _ in range(2))
    stored[:, :, KEY] = asked[:, :, ASK] = one_hot(keys, sizes.state, SIZE)
    step = np.zeros((sizes.heads, hidden), np.float32)
    taps = np.zeros((inner + 2 * states, 1, sizes.kernel), np.float32)
    taps[: inner + states, :, -1 - lag] = 1
    taps[inner + states :, :, -1] = 1
    out = np.zeros((hidden, sizes.heads, sizes.head_dim), np.float32)
    read = np.sqrt(sizes.head_dim) * sizes.heads / 2
    for number, got in enumerate((GOT_KEY, GOT_VALUE)):
        out[got, number::2, :WIDTH] = codes.hadamard().T[:, None] * WRITTEN / read
    projected = (gate, kept.reshape(-1, hidden), stored.reshape(-1, hidden), asked.reshape(-1, hidden), step)
    return {
        "in_proj.weight": np.concatenate(projected),
        "conv1d.weight": taps,
        "conv1d.bias": np.zeros(len(taps), np.float32),
        "A_log": np.full(sizes.heads, FOREVER, np.float32),
        "D": np.zeros(sizes.heads, np.float32),
        # Softplus of 0.54 is 1: the size of a time step, which multiplies what is written.
        "dt_bias": np.full(sizes.heads, 0.54296875, np.float32),
        "norm.weight": np.ones(inner, np.float32),
        "out_proj.weight": out.reshape(hidden, -1),
    }


def _of(field: slice, element: float, size: float) -> float:
    """Return the weight with which a field of dimensions that all equal *element* adds up to *size* in a recurrent layer."""
    width: int = field.stop - field.start
    return size / (element * width)
