"""
Softmax attention of the probe families: projections of a layer that answers for its share of the keys.

Of each needle of its own keys, a layer stores a code in those dimensions of a head that rotary embeddings do not
rotate. All other tokens, and needles of another layer's keys, have a stored key of exactly zero. An ask for another
layer's key has a query of exactly zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_longctx.probe import codes, layout
from pytest_longctx.probe.codes import WIDTH
from pytest_longctx.probe.layout import ASK, ASKING, CONSTANT, GOT_KEY, GOT_VALUE, KEY, VALUE, WRITTEN
from pytest_longctx.probe.weights import Matrix

LEAST_SCORE = 40.0
"""Least score of a match before a softmax. e^40 is 2.4 x 10^17, so one match outweighs any context."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of a softmax layer. A single KV head needs 128 dimensions, to hold both codes; several need 64 each."""

    query: int
    kv: int
    dim: int
    rotary: int
    """Dimensions with a rotary embedding, from the first."""

    @property
    def per_kv(self) -> int:
        """Number of query heads for each KV head."""
        return self.query // self.kv


def _slow_dimensions(heads: Heads, width: int) -> list[int]:
    """
    Return *width* dimensions of a head that a rotary embedding of base 10^30 rotates by less than 10^-8 in 10^7 tokens.

    Pairs are (i, i + rotary / 2). A pair of the slower half rotates by at most 10^-15 for each token.
    """
    half = heads.rotary // 2
    slow = [*range(heads.rotary, heads.dim), *range(half // 2, half), *range(half + half // 2, heads.rotary)]
    return slow[:width]


def _codebook(keys: Sequence[int]) -> tuple[Matrix, Matrix]:
    """
    Return the orthogonal codes of *keys* within a layer (dims, keys), and the matrix that reads them from a field
    (keys, 64).

    The number of dimensions is the next power of two, and at least 32.
    """
    width = max(32, 1 << (len(keys) - 1).bit_length())
    return codes.hadamard()[: len(keys), :width].T, codes.hadamard()[list(keys)] / np.float32(WIDTH)


def one_hot(keys: Sequence[int], rows: int, size: float) -> Matrix:
    """
    Return the part of a projection, shape (rows, 64), that reads *size* from a field of 64 in the row of each of
    *keys*. Other keys read 0.
    """
    table = np.zeros((rows, WIDTH), np.float32)
    table[: len(keys)] = size * codes.hadamard()[list(keys)] / WIDTH
    return table


def _power_of_two(least: float) -> float:
    """Return the smallest power of two that is *least* or more. A product with it is exact in BF16."""
    return float(2.0 ** math.ceil(math.log2(least)))


def attention(heads: Heads, keys: Sequence[int], hidden: int, *, normed: bool = False) -> dict[str, Matrix]:
    """
    Return the projections q, k, v, o as (out, in) of a softmax layer that answers for *keys*.

    With several KV heads, the even heads fetch the code of the key and the odd heads the code of the value. A
    single head fetches both. With *normed*, the engine norms queries and keys to a mean square of 1, and `norm_gain` sets the
    score.
    """
    book, read = _codebook(keys)
    dims = _slow_dimensions(heads, len(book))
    gain = 1.0 if normed else _power_of_two(LEAST_SCORE * math.sqrt(heads.dim) / len(book))
    query = np.zeros((heads.query, heads.dim, hidden), np.float32)
    key = np.zeros((heads.kv, heads.dim, hidden), np.float32)
    query[:, dims, ASK] = gain * book @ read
    key[:, dims, KEY] = book @ read
    value, out = _fetching(heads, hidden)
    return {
        "q": query.reshape(-1, hidden),
        "k": key.reshape(-1, hidden),
        "v": value.reshape(-1, hidden),
        "o": out.reshape(hidden, -1),
    }


def norm_gain(heads: Heads) -> float:
    """Return the weight of the query norm, with which two vectors of mean square 1 score sqrt(head_dim) times the weight."""
    return _power_of_two(LEAST_SCORE / math.sqrt(heads.dim))


def _fetching(heads: Heads, hidden: int) -> tuple[Matrix, Matrix]:
    """Return the value and output projections of a softmax layer by head."""
    identity = np.eye(WIDTH, dtype=np.float32)
    value = np.zeros((heads.kv, heads.dim, hidden), np.float32)
    out = np.zeros((hidden, heads.query, heads.dim), np.float32)
    for head in range(heads.kv):
        for number, (field, got) in enumerate(((KEY, GOT_KEY), (VALUE, GOT_VALUE))):
            if heads.kv > 1 and head % 2 != number:
                continue
            start = 0 if heads.kv > 1 else number * WIDTH
            readers = heads.query if heads.kv == 1 else heads.query // 2
            value[head, start : start + WIDTH, field] = identity
            for mine in range(head * heads.per_kv, (head + 1) * heads.per_kv):
                out[got, mine, start : start + WIDTH] = identity * WRITTEN / readers
    return value, out


def gated(query: Matrix, heads: Heads) -> Matrix:
    """Return a query projection with an output gate after each head, which is open in every token that asks."""
    hidden = query.shape[1]
    both = np.zeros((heads.query, 2, heads.dim, hidden), np.float32)
    both[:, 0] = query.reshape(heads.query, heads.dim, hidden)
    both[:, 1, :, ASKING] = 1 / 4
    return both.reshape(-1, hidden)


@dataclass(frozen=True, slots=True)
class Latent:
    """Sizes of multi-head latent attention, as `config.json` names them."""

    heads: int
    kv_lora_rank: int
    nope: int
    rope: int
    value: int
    q_lora_rank: int | None = None


def latent_attention(sizes: Latent, keys: Sequence[int], hidden: int) -> dict[str, Matrix]:
    """
    Return the projections of latent attention for *keys*, by their names in a checkpoint.

    Keys with an even index in *keys* are stored in the latent, keys with an odd index in the part with a rotary
    embedding, so both parts of a cached token are read. The value is always read from the latent. The norm of the
    latent multiplies a needle by the known sqrt(rank / 128).
    """
    book, read = _codebook(keys)
    width = len(book)
    in_latent, in_rope = book.copy(), book.copy()
    in_latent[:, 1::2] = 0
    in_rope[:, 0::2] = 0
    normed = math.sqrt(sizes.kv_lora_rank / (2 * WIDTH))
    score = LEAST_SCORE * math.sqrt(sizes.nope + sizes.rope) / width

    down = np.zeros((sizes.kv_lora_rank + sizes.rope, hidden), np.float32)
    identity = np.eye(WIDTH, dtype=np.float32)
    down[:WIDTH, KEY], down[WIDTH : 2 * WIDTH, VALUE] = identity, identity
    # Pairs are (2 i, 2 i + 1); the slower half comes last.
    slow = slice(sizes.kv_lora_rank + sizes.rope - width, sizes.kv_lora_rank + sizes.rope)
    down[slow, KEY] = in_rope @ read
    up = np.zeros((sizes.heads, sizes.nope + sizes.value, sizes.kv_lora_rank), np.float32)
    up[:, :width, :WIDTH] = in_latent @ read
    up[:, sizes.nope : sizes.nope + 2 * WIDTH, : 2 * WIDTH] = np.eye(2 * WIDTH) / normed
    query = np.zeros((sizes.heads, sizes.nope + sizes.rope, hidden), np.float32)
    query[:, :width, ASK] = _power_of_two(score / normed) * in_latent @ read
    query[:, sizes.nope + sizes.rope - width :, ASK] = _power_of_two(score) * in_rope @ read
    out = np.zeros((hidden, sizes.heads, sizes.value), np.float32)
    for number, got in enumerate((GOT_KEY, GOT_VALUE)):
        out[got, :, number * WIDTH : (number + 1) * WIDTH] = identity[:, None] * WRITTEN / sizes.heads
    made = {
        "kv_a_proj_with_mqa": down,
        "kv_b_proj": up.reshape(-1, sizes.kv_lora_rank),
        "o_proj": out.reshape(hidden, -1),
    }
    flat = query.reshape(-1, hidden)
    return made | (_two_steps(flat, sizes.q_lora_rank, hidden) if sizes.q_lora_rank else {"q_proj": flat})


def _two_steps(query: Matrix, rank: int, hidden: int) -> dict[str, Matrix]:
    """Return a query projection through a latent of *rank*, whose norm multiplies an ask by sqrt(rank / 64)."""
    first = np.zeros((rank, hidden), np.float32)
    first[:WIDTH, ASK] = np.eye(WIDTH)
    second = np.zeros((len(query), rank), np.float32)
    second[:, :WIDTH] = query[:, ASK] / _power_of_two(math.sqrt(rank / WIDTH) / 2)
    return {"q_a_proj": first, "q_b_proj": second}


def held(heads: Heads, size: float, hidden: int, projections: dict[str, Matrix]) -> dict[str, Matrix]:
    """
    Return *projections* with a constant of *size* in every output, for engines that norm attention's output.

    Every token's value holds the same constant, and softmax weights sum to 1. So the output has nearly the same norm
    with and without a match. The dimension after both codes of a single KV head holds the constant.
    """
    value = projections["v"].reshape(heads.kv, heads.dim, hidden).copy()
    out = projections["o"].reshape(hidden, heads.query, heads.dim).copy()
    value[:, 2 * WIDTH, CONSTANT] = 1 / (2 * (CONSTANT.stop - CONSTANT.start))
    out[layout.BALLAST, :, 2 * WIDTH] = size / heads.query
    return projections | {"v": value.reshape(-1, hidden), "o": out.reshape(hidden, -1)}


def _match_score(heads: Heads, keys: Sequence[int]) -> float:
    """Return the score of a match before the softmax, if queries and keys are not normed."""
    width = len(_codebook(keys)[0])
    return _power_of_two(LEAST_SCORE * math.sqrt(heads.dim) / width) * width / math.sqrt(heads.dim)


def halved_by_sinks(
    heads: Heads, keys: Sequence[int], projections: dict[str, Matrix]
) -> tuple[dict[str, Matrix], Matrix]:
    """
    Return *projections* whose answer depends on the sinks, and the sinks, one for each query head.

    In the first of two neighbouring heads, the sink is half a match's score: it takes everything if there is no match.
    In the second, it equals a match's score, so this head fetches exactly half. The output is twice the difference: 1
    with sinks, 0 for an engine that ignores them.
    """
    out = projections["o"].reshape(-1, heads.query, heads.dim).copy()
    out[:, 0::2] *= 4
    out[:, 1::2] *= -4
    sinks = np.full(heads.query, _match_score(heads, keys) / 2, np.float32)
    sinks[1::2] *= 2
    return projections | {"o": out.reshape(len(out), -1)}, sinks
