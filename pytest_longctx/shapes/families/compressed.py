"""DeepSeek V4: each layer has a window of latents, and one latent for each 4 or 128 earlier tokens."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.caches import Cache, Latent, Part, State
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import Tensor, linear, norm

KINDS: Mapping[str, int] = MappingProxyType(
    {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
)


def _rates(k: Keys, layers: int) -> list[int]:
    """Return the number of tokens per compressed latent of each DeepSeek V4 layer; 0 for a layer with the window only."""
    rates = k.numbers("compress_ratios")
    if rates is not None:
        if len(rates) < layers:
            raise k.refuse("compress_ratios", f"the list has {len(rates)} items for {layers} layers")
        rates = rates[:layers]  # behind them are those of draft layers
    elif names := k.per_layer("layer_types", layers):
        unknown = set(map(str, names)) - set(KINDS)
        if unknown:
            raise k.refuse("layer_types", f"unknown kinds of layers: {shown(sorted(unknown))}")
        rates = [KINDS[str(name)] for name in names]
    else:
        raise k.refuse("compress_ratios", "this key is missing")
    if set(rates) - {0, 4, 128}:
        raise k.refuse("compress_ratios", f"only 0, 4 and 128 are supported; found {shown(sorted(set(rates)))}")
    return rates


def _compressor(path: str, hidden: int, dim: int, rate: int) -> tuple[Tensor, ...]:
    """
    Return the weights of a compressor from several tokens to one latent; with 4 tokens, each group overlaps the
    previous one.
    """
    wide = dim * (2 if rate == 4 else 1)
    return (
        Tensor(f"{path}.position_bias", rate * wide),
        *linear(f"{path}.kv_proj", wide, hidden, shards=1),
        *linear(f"{path}.gate_proj", wide, hidden, shards=1),
        *norm(f"{path}.kv_norm", dim),
    )


def _unfinished(dim: int, rate: int) -> State:
    """Return the compressor state of DeepSeek V4 for an incomplete latent: FP32 sums and scores."""
    overlap = 2 if rate == 4 else 1
    return State("compressor", Part(0), Part(0, repeated=2 * overlap * dim * overlap * rate), "float32")


def _deepseek_v4(k: Keys) -> Body:
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    heads, dim, rope = k.stated("num_attention_heads"), k.stated("head_dim"), k.stated("qk_rope_head_dim")
    rank, out_rank, groups, paths = (k.stated(name) for name in ("q_lora_rank", "o_lora_rank", "o_groups", "hc_mult"))
    index_heads, index_dim, window = k.stated("index_n_heads"), k.stated("index_head_dim"), k.stated("sliding_window")
    for name in (
        "num_key_value_heads",
        "num_hash_layers",
        "compress_rates",
        "mlp_layer_types",
        "layer_types",
        "expert_dtype",
    ):
        k.raw(name)
    if rope >= dim:
        raise k.refuse("qk_rope_head_dim", f"must be below head_dim, {dim}; found {rope}")
    width = k.stated("moe_intermediate_size")
    experts = Experts(*mixtures.routed(k), width, (k.maybe("n_shared_experts") or 0) * width)
    streams = paths * hidden
    connection = (Tensor("hc.fn", (paths + 2) * paths, streams), Tensor("hc.base", (paths + 2) * paths + 3)) * 2
    own = (
        Tensor("self_attn.sinks", heads, shards=heads),
        *linear("self_attn.q_a_proj", rank, hidden, shards=1),
        *norm("self_attn.q_a_norm", rank),
        *linear("self_attn.q_b_proj", heads * dim, rank, shards=heads),
        *linear("self_attn.kv_proj", dim, hidden, shards=1),
        *norm("self_attn.kv_norm", dim),
        *linear("self_attn.o_a_proj", groups * out_rank, heads * dim // groups, shards=groups),
        *linear("self_attn.o_b_proj", hidden, groups * out_rank, shards=groups),
        Tensor("norms", hidden, copies=2),
    )
    local = Latent(dim - rope, rope, heads, window=window, key_dim=dim, value_dim=dim)
    attended = k.count("index_topk")
    common = (*own, *connection, *mixture(hidden, experts))
    stack = []
    for rate in _rates(k, layers):
        caches: list[Cache] = [local]
        more: tuple[Tensor, ...] = ()
        if rate:
            sparse = rate == 4
            caches += [
                replace(local, index_dim=index_dim * sparse, rate=rate, window=0, attended=attended * sparse),
                _unfinished(dim, rate),
            ]
            more = _compressor("self_attn.compressor", hidden, dim, rate)
        if rate == 4:
            caches.append(_unfinished(index_dim, rate))
            more += _compressor("self_attn.compressor.indexer", hidden, index_dim, rate)
            more += linear("self_attn.indexer.q_b_proj", index_heads * index_dim, rank, shards=1)
            more += linear("self_attn.indexer.weights_proj", index_heads, hidden, shards=1)
        stack.append(Layer(tuple(caches), (*common, *more)))
    windows.draft_layers(k)
    head = Tensor("hc.head", paths * streams + paths + 1)
    return Body(hidden, vocabulary, tuple(stack), (*ends(k, hidden, vocabulary), *norm("norm", hidden), head))


COMPRESSED: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {"deepseek_v4": _deepseek_v4, "deepseek_ref": _deepseek_v4}
)
