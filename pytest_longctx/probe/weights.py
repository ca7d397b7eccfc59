"""
Weights of the probe, computed instead of trained and exact in BF16, and the longest guaranteed prompt.

Hidden dimensions are named fields. Each token's embedding has the norm of a vector of ones, so the norms before
projections change nothing. Only the last layer attends to relevant tokens: a key head holds the key code, its values
are copied to the residual, and the output matrix reads key, value and ask together. The other layers have random
queries, keys and values and an output of zero. They cost as much as any layer and do not affect the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import KEYS, RUNGS, VALUES, WIDTH

Matrix = npt.NDArray[np.float32]

HIDDEN = 256
HEADS = 8
KV_HEADS = 2
"""Number of KV heads. The values of the first head hold the code of the key, and of the second head the code of the value."""

MLP = 64
KEY, VALUE, ASK = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3))
ASKING = slice(192, 204)
"""Dimensions set in every token that asks. The answer "none" reads it."""
BALLAST = slice(204, 212)
"""Dimensions that complete the norm of needles. No matrix reads it."""
LADDER = 212
"""
First dimension of the ladder. It is set in every rung. One dimension for each rung follows, and one for each ask about
a rung.
"""
RUNG = slice(213, 213 + RUNGS)
ASK_RUNG = slice(224, 224 + RUNGS)
FILL = slice(236, 252)

NONE_READS = 1.875
"""
Amount of the two fetched codes, out of 2, that an answer needs to beat "none".

The value is above 7/4, so a single failing head out of eight gives "none", on whichever device it is.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """A model architecture for which the probe can be made."""

    architecture: str
    mlp: str
    """Name of the MLP in tensor names."""
    layers: int
    head_dim: int
    dims: tuple[int, ...]
    """The `WIDTH` dimensions of a head that hold a code. Rotary embeddings do not rotate them."""
    query_gain: float
    prefix: str = ""
    """Prefix of all tensor names."""


LLAMA4 = Family("Llama4ForCausalLM", "feed_forward", 4, 64, tuple(range(64)), 4.0)
# SGLang uses chunked attention only for the architecture name of the published checkpoints, which is that of text with images.
LLAMA4_WITH_IMAGES = replace(LLAMA4, architecture="Llama4ForConditionalGeneration", prefix="language_model.")
# The slower half of the 64 rotary pairs (i, i + 64).
LLAMA = Family("LlamaForCausalLM", "mlp", 2, 128, (*range(32, 64), *range(96, 128)), 8.0)


def tensors(family: Family) -> dict[str, npt.NDArray[np.generic]]:
    """Return every tensor of the first probe, with Llama 4's layers, by name, in BF16."""
    made: dict[str, Matrix] = {"model.embed_tokens.weight": embedding(), "lm_head.weight": output()}
    for layer in range(family.layers):
        last = layer == family.layers - 1
        projections = attention(family) if last else idle_attention(family, layer)
        prefix = f"model.layers.{layer}."
        made |= {f"{prefix}self_attn.{name}_proj.weight": matrix for name, matrix in projections.items()}
        for name, shape in (("gate", (MLP, HIDDEN)), ("up", (MLP, HIDDEN)), ("down", (HIDDEN, MLP))):
            made[f"{prefix}{family.mlp}.{name}_proj.weight"] = np.zeros(shape, np.float32)
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{prefix}{name}.weight"] = np.ones(HIDDEN, np.float32)
    made["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    return {f"{family.prefix}{name}": matrix.astype(ml_dtypes.bfloat16) for name, matrix in made.items()}


def embedding() -> Matrix:
    """
    Return the embedding matrix of Llama 4's probe, shape (vocabulary, hidden). Ids with a meaning have a root mean
    square of exactly 1.
    """
    code = codes.hadamard()
    table = np.zeros((codes.VOCABULARY, HIDDEN), np.float32)
    pairs = np.arange(KEYS * VALUES)
    needles = slice(codes.NEEDLE, codes.ANSWER)
    table[needles, KEY], table[needles, VALUE] = code[pairs // VALUES], code[pairs % VALUES]
    table[codes.RUNG : codes.ASK_RUNG, LADDER] = 8
    table[codes.RUNG : codes.ASK_RUNG, RUNG] = 8 * np.eye(RUNGS)
    for start, stop in ((codes.NEEDLE, codes.ANSWER), (codes.RUNG, codes.ASK_RUNG)):
        table[start:stop, BALLAST] = 4

    following = np.roll(code, -1, axis=0)
    table[codes.ASK : codes.NONE, ASK] = code
    table[codes.NONE : codes.NEEDLE, ASK] = following
    table[codes.ANSWER : codes.FILLER, ASK] = following[pairs // VALUES]
    table[codes.ASK_RUNG : codes.KEPT, ASK_RUNG] = 8 * np.eye(RUNGS)
    for start in (codes.KEPT, codes.ERASED):
        table[start : start + RUNGS, ASK_RUNG] = 8 * np.roll(np.eye(RUNGS), -1, axis=0)
    for start, stop in (
        (codes.ASK, codes.NEEDLE),
        (codes.ANSWER, codes.FILLER),
        (codes.ASK_RUNG, codes.ERASED + RUNGS),
    ):
        table[start:stop, ASKING] = 4

    table[codes.FILLER :, FILL] = 4 * _signs(np.arange(codes.VOCABULARY - codes.FILLER))
    return table


def attention(family: Family) -> dict[str, Matrix]:
    """
    Return the projections of the answering layer of the default family, Llama 4's probe, as (out, in).

    `pytest_longctx.probe.softmax` and `pytest_longctx.probe.decoders` build the projections of other families.
    """
    code, identity = codes.hadamard(), np.eye(WIDTH, dtype=np.float32)
    dims, heads_per_kv = list(family.dims), HEADS // KV_HEADS
    query = np.zeros((HEADS, family.head_dim, HIDDEN), np.float32)
    key = np.zeros((KV_HEADS, family.head_dim, HIDDEN), np.float32)
    value = np.zeros((KV_HEADS, family.head_dim, HIDDEN), np.float32)
    out = np.zeros((HIDDEN, HEADS, family.head_dim), np.float32)

    query[:, dims, ASK] = family.query_gain * identity
    key[:, dims, KEY] = identity
    for head, field in enumerate((KEY, VALUE)):
        value[head, dims, field] = identity
        for mine in range(head * heads_per_kv, (head + 1) * heads_per_kv):
            out[field, mine, dims] = identity / heads_per_kv

    # Rung r is stored as 1 where code r is -1, and as 1 + 2^-r where it is +1. Its ask amplifies that difference by 2^r
    # along code r. A key whose difference was erased is orthogonal to code r, and so is every other rung.
    for index in range(RUNGS):
        bits, mine = index + 1, code[index + 1]
        query[:, dims, ASK_RUNG.start + index] = family.query_gain * 2 * 2**bits * mine / 8
        key[:, dims, RUNG.start + index] = 2.0**-bits * (1 + mine) / 2 / 8
        value[:, dims, RUNG.start + index] = mine / 8
    key[:, dims, LADDER] = 1 / 8
    return {
        "q": query.reshape(-1, HIDDEN),
        "k": key.reshape(-1, HIDDEN),
        "v": value.reshape(-1, HIDDEN),
        "o": out.reshape(HIDDEN, -1),
    }


def idle_attention(family: Family, layer: int) -> dict[str, Matrix]:
    """Return the projections of an ineffective layer of Llama 4's probe: its output is zero."""
    rows = {"q": HEADS * family.head_dim, "k": KV_HEADS * family.head_dim, "v": KV_HEADS * family.head_dim}
    made = {
        name: _noise((count, HIDDEN), seed=layer * len(rows) + number)
        for number, (name, count) in enumerate(rows.items())
    }
    return {**made, "o": np.zeros((HIDDEN, HEADS * family.head_dim), np.float32)}


def output() -> Matrix:
    """
    Return the output matrix of Llama 4's probe, shape (vocabulary, hidden). Each answer reads its ask, and both fetched
    codes or neither.
    """
    code, pairs = codes.hadamard(), np.arange(KEYS * VALUES)
    table = np.zeros((codes.VOCABULARY, HIDDEN), np.float32)
    none = NONE_READS * WIDTH / (4 * (ASKING.stop - ASKING.start))
    answers, nones = slice(codes.ANSWER, codes.FILLER), slice(codes.NONE, codes.NEEDLE)
    table[answers, KEY], table[answers, VALUE] = code[pairs // VALUES], code[pairs % VALUES]
    table[answers, ASK], table[nones, ASK], table[nones, ASKING] = code[pairs // VALUES], code, none
    kept, erased = slice(codes.KEPT, codes.ERASED), slice(codes.ERASED, codes.ERASED + RUNGS)
    table[kept, KEY] = table[kept, VALUE] = code[1 : RUNGS + 1]
    table[kept, ASK_RUNG] = table[erased, ASK_RUNG] = 8 * np.eye(RUNGS)
    table[erased, ASKING] = none
    # Filler predicts itself, so that prompts without an ask are answered with words too.
    table[codes.FILLER :, FILL] = _signs(np.arange(codes.VOCABULARY - codes.FILLER))
    return table


def _signs(numbers: npt.NDArray[np.int64]) -> Matrix:
    """Return the low bits of each number as +-1, for the weights of Llama 4's probe."""
    bits = numbers[:, None] >> np.arange(FILL.stop - FILL.start) & 1
    return (1 - 2 * bits).astype(np.float32)


def _noise(shape: tuple[int, int], seed: int) -> Matrix:
    """
    Return the noise of the weights: multiples of 1/64 within +-1/8, equal on every machine and numpy version (the mixer
    of SplitMix64).
    """
    count = shape[0] * shape[1]
    state = (np.arange(count, dtype=np.uint64) + np.uint64(seed * count + 1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return ((state % np.uint64(17)).astype(np.float32) - 8).reshape(shape) / np.float32(64)


@cache
def in_float32(family: Family) -> Mapping[str, Matrix]:
    """Return the tensors of Llama 4's probe in float32, for computation with numpy."""
    return {name: tensor.astype(np.float32) for name, tensor in tensors(family).items()}
