"""Attention layers: their weights and their KV caches."""

from dataclasses import dataclass

from pytest_longctx.shapes.caches import Attention, Latent, Span
from pytest_longctx.shapes.tensors import Tensor, linear, norm


@dataclass(frozen=True, slots=True)
class Heads:
    """Sizes of one attention layer."""

    hidden: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Details:
    """Parts of a family's attention beside the four matrices."""

    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str = ""
    """``head``: a scale for each value of a head; ``wide``: for each value of all heads; ``offset``: as ``head``, with a bias."""
    gate: str = ""
    """``query``: the query projection computes it; ``own``: one value per output value; ``head``: one per head."""
    sinks: bool = False
    shared_kv: bool = False
    """The layer uses another layer's keys and values, and caches none."""
    keys_are_values: bool = False
    """One projection computes both keys and values."""
    own_kv_weights: bool = True
    """Whether a layer that uses shared keys and values still has its own projections."""


PLAIN = Details()


def grouped(sizes: Heads, details: Details = PLAIN, path: str = "self_attn") -> tuple[Tensor, ...]:
    """Return the weights of grouped-query attention."""
    h, wide, bias = sizes.hidden, sizes.heads * sizes.key_dim, details.qkv_bias
    out = sizes.heads * sizes.value_dim
    asked = wide * 2 if details.gate == "query" else wide
    made = [*linear(f"{path}.q_proj", asked, h, bias=bias, shards=sizes.heads)]
    if details.own_kv_weights:
        made += linear(f"{path}.k_proj", sizes.kv_heads * sizes.key_dim, h, bias=bias, shards=sizes.kv_heads)
        if not details.keys_are_values:
            made += linear(f"{path}.v_proj", sizes.kv_heads * sizes.value_dim, h, bias=bias, shards=sizes.kv_heads)
    made += linear(f"{path}.o_proj", h, out, bias=details.o_bias, shards=sizes.heads, by_row=False)
    if details.gate in ("own", "head"):
        rows = out if details.gate == "own" else sizes.heads
        made += linear(f"{path}.gate_proj", rows, h, shards=sizes.heads)
    if details.sinks:
        made.append(Tensor(f"{path}.sinks", sizes.heads, shards=sizes.heads))
    return (*made, *_qk_norms(sizes, details, path))


def _qk_norms(sizes: Heads, details: Details, path: str) -> tuple[Tensor, ...]:
    if not details.qk_norm:
        return ()
    wide, bias = details.qk_norm == "wide", details.qk_norm == "offset"
    query, key = (sizes.heads, sizes.kv_heads) if wide else (1, 1)
    made = norm(f"{path}.q_norm", query * sizes.key_dim, bias=bias)
    return made + (norm(f"{path}.k_norm", key * sizes.key_dim, bias=bias) if details.own_kv_weights else ())


def cached(sizes: Heads, span: Span = "full", window: int = 0, index_dim: int = 0, attended: int = 0) -> Attention:
    """Return the cache of one grouped-query attention layer."""
    return Attention(sizes.kv_heads, sizes.key_dim, sizes.value_dim, span, window, sizes.heads, index_dim, attended)


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Sizes of one layer of multi-head latent attention."""

    hidden: int
    heads: int
    query_rank: int | None
    rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    bias: bool = False
    output_gate: bool = False
    query_norm: bool = True


def latent(sizes: LatentSizes, path: str = "self_attn") -> tuple[Tensor, ...]:
    """Return the weights of latent attention; the projections to the latent are replicated on every device."""
    h, query = sizes.hidden, sizes.heads * (sizes.nope_dim + sizes.rope_dim)
    made: list[Tensor] = []
    if sizes.query_rank:
        made += linear(f"{path}.q_a_proj", sizes.query_rank, h, bias=sizes.bias, shards=1)
        made += norm(f"{path}.q_a_layernorm", sizes.query_rank)
        made += linear(f"{path}.q_b_proj", query, sizes.query_rank, shards=sizes.heads)
    else:
        made += linear(f"{path}.q_proj", query, h, shards=sizes.heads)
    made += linear(f"{path}.kv_a_proj_with_mqa", sizes.rank + sizes.rope_dim, h, bias=sizes.bias, shards=1)
    made += norm(f"{path}.kv_a_layernorm", sizes.rank)
    up = sizes.heads * (sizes.nope_dim + sizes.value_dim)
    made += linear(f"{path}.kv_b_proj", up, sizes.rank, shards=sizes.heads)
    made += linear(
        f"{path}.o_proj", h, sizes.heads * sizes.value_dim, bias=sizes.bias, shards=sizes.heads, by_row=False
    )
    if sizes.output_gate:
        made += linear(f"{path}.g_proj", sizes.heads * sizes.value_dim, h, shards=sizes.heads)
    return tuple(made)


def indexer(hidden: int, query_rank: int, heads: int, dim: int, path: str = "self_attn.indexer") -> tuple[Tensor, ...]:
    """Return the weights of the sparse attention indexer of DeepSeek, replicated on every device."""
    return (
        *linear(f"{path}.wq_b", heads * dim, query_rank, shards=1),
        *linear(f"{path}.wk", dim, hidden, shards=1),
        *norm(f"{path}.k_norm", dim, bias=True),
        *linear(f"{path}.weights_proj", heads, hidden, shards=1),
    )


def latent_cached(sizes: LatentSizes, index_dim: int = 0, attended: int = 0) -> Latent:
    """Return the cache of one layer of multi-head latent attention."""
    key_dim = sizes.nope_dim + sizes.rope_dim
    return Latent(
        sizes.rank,
        sizes.rope_dim,
        sizes.heads,
        index_dim,
        attended=attended,
        key_dim=key_dim,
        value_dim=sizes.value_dim,
    )
