"""Decoders with several residual streams that hyper-connections mix: GLM-5.3, HY 4 and Qwen4."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isqrt
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped, indexer, latent, latent_cached
from pytest_longctx.shapes.caches import Cache, Part, State
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import Basics, basics, ends, layer_count
from pytest_longctx.shapes.families.hybrid import QWEN_EXPERTS, delta_net, recurrent_kinds, ssm_dtype
from pytest_longctx.shapes.families.latent import indexed_layers, latent_experts, latent_sizes
from pytest_longctx.shapes.feedforward import dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.quantization import NGRAMS
from pytest_longctx.shapes.recurrent import DeltaNet
from pytest_longctx.shapes.tensors import ANY, Tensor, linear, norm

SPARSE = ("deepseek_sparse_attention", "sparse_attention", "sparse", "indexed_attention")
"""Names of layers of latent attention that an indexer makes sparse."""
MOST_TABLES = 128
"""Tables of n-grams in one model; a file with more is damaged."""


def _glm5_next(k: Keys) -> Body:
    """
    Return the layers of GLM-5.3: three of Kimi Delta Attention to one of sparse latent attention without rotation,
    whose indexer caches one key for several tokens.
    """
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    for name, wanted in (("mhc", True), ("index_kpool_compress", True), ("index_kpool_always_select_tail", True)):
        if k.flag(name, default=wanted) is not wanted:
            raise k.refuse(name, "only true is supported")
    attends, net = _glm5_next_layers(k, layers), _glm5_next_net(k, hidden)
    sizes = latent_sizes(k, hidden, rotated=False)
    if sizes.rope_dim:
        raise k.refuse("qk_rope_head_dim", f"the value is {sizes.rope_dim}, but the model class supports only 0")
    if sizes.query_rank is None:
        raise k.refuse("q_lora_rank", "this key is missing, and the indexer needs it")
    if k.maybe("num_key_value_heads") not in (None, sizes.heads):
        raise k.refuse(
            "num_key_value_heads", f"must equal the number of attention heads, {sizes.heads}, in the model class"
        )
    search, cache, tail = _pooled_indexer(k, hidden, sizes.query_rank)
    if any(full and not own for full, own in zip(attends, indexed_layers(k, layers), strict=True)):
        raise k.refuse("indexer_types", "a layer that shares another's indexer is not supported for this model family")
    sparse = mixtures.sparse_layers(k, layers, first=3)
    mixed = mixture(hidden, latent_experts(k)) if any(sparse) else ()
    plain = () if all(sparse) else dense(hidden, k.stated("intermediate_size"))
    streams = k.count("hc_mult", default=4)
    around = (Tensor("norms", hidden, copies=2), *_connection(hidden, streams, (streams + 2) * streams, 3))
    attention, full_cache = (*latent(sizes), *search), replace(latent_cached(sizes), **cache)
    state = net.cached("float32")
    stack = tuple(
        Layer((full_cache, tail), (*attention, *around, *(mixed if each else plain)))
        if full
        else Layer((state,), (*net.tensors("self_attn"), *around, *(mixed if each else plain)))
        for full, each in zip(attends, sparse, strict=True)
    )
    return Body(hidden, vocabulary, stack, (*ends(k, hidden, vocabulary), *norm("norm", hidden)))


def _glm5_next_layers(k: Keys, layers: int) -> list[bool]:
    """Return which layers of GLM-5.3 have latent attention (True); the others are recurrent."""
    kinds = k.per_layer("layer_types", layers, extra=windows.draft_layers(k)) if k.has("layer_types") else None
    if kinds is None:
        return [i % 4 == 3 for i in range(layers)]
    for kind in kinds:
        if kind not in (*SPARSE, "full_attention", "linear_attention"):
            raise k.refuse("layer_types", f"unknown kind of layer: {shown(kind)}")
    return [kind != "linear_attention" for kind in kinds]


def _glm5_next_net(k: Keys, hidden: int) -> DeltaNet:
    table = k.table("linear_attn_config")
    heads, dim, kernel = (k.maybe(f"linear_{name}", least=1) for name in ("num_heads", "head_dim", "conv_kernel_dim"))
    if table is not None:
        heads = table.maybe("num_heads", least=1) or heads
        dim = table.maybe("head_dim", least=1) or dim
        kernel = table.maybe("short_conv_kernel_size", least=1) or kernel
        for name in ("kda_layers", "full_attn_layers", "gate_lower_bound", "safe_gate"):
            table.raw(name)  # layer_types says which layers they are
        if unread := table.unread():
            raise k.refuse(unread.removeprefix("text_config."), "this setting is not supported for this model family")
    if heads is None or dim is None:
        raise k.refuse("linear_attn_config", "this key is missing")
    return DeltaNet(hidden, heads, heads, dim, dim, kernel or 4, gate_rank=dim)


def _pooled_indexer(k: Keys, hidden: int, query_rank: int) -> tuple[tuple[Tensor, ...], dict[str, int], State]:
    """
    Return the indexer of GLM-5.3: its weights, its part of the cache, and the state with the keys of an incomplete
    pool.
    """
    heads, dim, pool = k.count("index_n_heads"), k.count("index_head_dim"), k.count("index_kpool", least=2)
    pooling = (
        Tensor("self_attn.indexer.index_kpool_compress_ape", pool * dim),
        *linear("self_attn.indexer.index_kpool_compress_gate", dim, hidden, shards=1),
    )
    cache = {"index_dim": dim, "index_rate": pool, "attended": k.count("index_topk")}
    tail = State("compressor", Part(0), Part(0, repeated=2 * pool * dim), "bfloat16")
    return (*indexer(hidden, query_rank, heads, dim), *pooling), cache, tail


def _connection(hidden: int, streams: int, rows: int, scales: int) -> tuple[Tensor, ...]:
    """Return the two hyper-connections of a layer: before and after attention, and around the feed-forward layer."""
    return (Tensor("hc.fn", rows, streams * hidden), Tensor("hc.base", rows + scales)) * 2


def _hy_v4(k: Keys) -> Body:
    """
    Return the layers of HY 4: latent attention with gates and sinks; of each four layers, one has an indexer that the
    others share.
    """
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    for name in ("enable_ihc", "gated_mla", "learnable_sink"):
        if not k.flag(name, default=True):
            raise k.refuse(name, "only true is supported")
    if k.word("gating_type", "elementwise") != "elementwise":
        raise k.refuse("gating_type", "only elementwise is supported")
    k.raw("enable_lm_head_fp32")  # it is cast when it multiplies
    sizes = replace(latent_sizes(k, hidden), output_gate=True)
    if sizes.query_rank is None:
        raise k.refuse("q_lora_rank", "this key is missing, and the indexer needs it")
    kinds = k.per_layer("layer_types", layers, extra=windows.draft_layers(k)) if k.has("layer_types") else None
    if kinds is not None and set(map(str, kinds)) - set(SPARSE):
        raise k.refuse("layer_types", "only sparse attention is supported for this model family")
    own = [i == 0 or (i - 1) % 4 == 0 for i in range(layers)]
    own = indexed_layers(k, layers) if k.has("indexer_types") else own
    dim = k.count("index_head_dim")
    search = indexer(hidden, sizes.query_rank, k.count("index_n_heads"), dim)
    attended, sparse = k.count("index_topk"), mixtures.sparse_layers(k, layers, first=1)
    mixed = mixture(hidden, latent_experts(k)) if any(sparse) else ()
    plain = () if all(sparse) else dense(hidden, k.stated("intermediate_size"))
    streams = k.count("hc_mult")
    around = (
        Tensor("self_attn.sinks", sizes.heads, shards=sizes.heads),
        Tensor("norms", hidden, copies=2),
        *_connection(hidden, streams, 2 * streams, 2),
    )
    stack = tuple(
        Layer(
            (latent_cached(sizes, dim if index else 0, attended),),
            (*latent(sizes), *(search if index else ()), *around, *(mixed if each else plain)),
        )
        for index, each in zip(own, sparse, strict=True)
    )
    head = (Tensor("hc_head.fn", streams, streams * hidden), Tensor("hc_head.base", streams + 1))
    return Body(hidden, vocabulary, stack, (*ends(k, hidden, vocabulary), *norm("norm", hidden), *head))


def _qwen4(k: Keys) -> Body:
    """
    Return the layers of Qwen4: Gated DeltaNet, and attention to the selection of an indexer; some layers look n-grams
    of tokens up in a table.
    """
    b = basics(k)
    step = k.count("full_attention_interval", default=4)
    attends = recurrent_kinds(k, "layer_types", b.layers, ("full_attention", "indexed_attention"))
    attends = attends or [(i + 1) % step == 0 for i in range(b.layers)]
    sizes, bias = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), k.flag("attention_bias")
    search, caches = _qwen4_attention(k, b, sizes)
    attention = (*grouped(sizes, Details(bias, bias, "head", "query")), *search)
    net, (experts, marks) = delta_net(k, b.hidden), QWEN_EXPERTS(k, b)
    if not all(marks):
        raise k.refuse("mlp_only_layers", "dense layers are not supported for this model family")
    k.raw("output_gate_type")
    streams, rank = k.count("hc_count", least=2), k.count("hc_lowrank")
    wide = streams * b.hidden
    mixer = (*norm("hc.norm", wide), *linear("hc.down", rank, wide, shards=1), *linear("hc.up", wide, rank, shards=1))
    around = (*mixer, Tensor("hc.inject", streams, wide)) * 2
    tables, state = _ngrams(k, b, attends, wide), net.cached(ssm_dtype(k))
    stack = []
    for i, full in enumerate(attends):
        own: tuple[Cache, ...] = caches if full else (state,)
        weights = attention if full else net.tensors()
        looked, kept = tables.get(i, ((), ()))
        stack.append(Layer((*own, *kept), (*weights, *around, *mixture(b.hidden, experts), *looked)))
    return Body(b.hidden, b.vocabulary, tuple(stack), (*ends(k, b.hidden, b.vocabulary), *mixer))


def _qwen4_attention(k: Keys, b: Basics, sizes: Heads) -> tuple[tuple[Tensor, ...], tuple[Cache, ...]]:
    """
    Return the indexer of Qwen4's attention, and the layer's caches: means of several keys, and keys that are not yet
    averaged.
    """
    heads = k.maybe("indexer_n_heads", least=1)
    if heads is None:
        return (), (cached(sizes),)
    dim, rate = k.stated("indexer_head_dim"), k.stated("indexer_compress_ratio")
    if k.stated("indexer_kv_heads") != 1:
        raise k.refuse("indexer_kv_heads", "only 1 is supported")
    path = "self_attn.indexer"
    search = (*linear(f"{path}.index_qk_proj", (heads + 1) * dim, b.hidden, shards=1), *norm(f"{path}.norm", 2 * dim))
    attention = replace(cached(sizes, index_dim=dim, attended=k.stated("indexer_budget")), index_rate=rate)
    # vLLM keeps three positions of 8 bytes beside a key where the rotation has sections.
    rotation = k.raw("rope_parameters")
    sections = isinstance(rotation, Mapping) and rotation.get("mrope_section")
    row = -(-dim // 4) * 4 + 12 if sections else dim
    open_group = State("compressor", Part(0), Part(0, repeated=rate * row), "bfloat16")
    return search, (replace(attention, index_value_bytes=2), open_group)


def _ngrams(
    k: Keys, b: Basics, attends: list[bool], wide: int
) -> dict[int, tuple[tuple[Tensor, ...], tuple[State, ...]]]:
    """
    Return the layers of Qwen4 that look n-grams up: the table, the weights that mix its rows into the stream, and the
    state of a convolution.
    """
    chosen = sorted(set(k.numbers("ple_layer_ids") or ()))  # counted from 1
    width, size = k.maybe("ple_embed_dim", least=1) or b.hidden, k.count("ngram_size", default=3, least=2)
    each, kernel = k.count("heads_per_ngram", default=8), k.count("ple_conv_kernel_size", default=4)
    base, divisor = k.count("ngram_vocab_size_base", default=20_000_000), "make_ngram_vocab_size_divisible_by"
    unit, heads = k.count(divisor, default=128), (size - 1) * each
    k.raw("split_ngram_parts")
    if not chosen:
        return {}
    if any(not 1 <= i <= b.layers or attends[i - 1] for i in chosen):
        raise k.refuse("ple_layer_ids", f"must name layers with linear attention, from 1 to {b.layers}")
    if width % heads or len(chosen) * heads > MOST_TABLES:
        raise k.refuse("heads_per_ngram", f"{heads} tables do not divide {width} evenly, or there are too many")
    primes = _primes(base, len(chosen) * heads)
    found: dict[int, tuple[tuple[Tensor, ...], tuple[State, ...]]] = {}
    state = State("paged_conv", Part(0, repeated=(kernel - 1) * size * wide), Part(0))
    for at, layer in enumerate(chosen):
        rows = sum(primes[at * heads : (at + 1) * heads])
        looked = (
            Tensor(NGRAMS, -(-rows // unit) * unit, width // heads, shards=ANY),
            *linear("ple.key_proj", wide, width, shards=1),
            *linear("ple.value_proj", b.hidden, width, shards=1),
            *norm("ple.norm", wide, copies=3),
            Tensor("ple.conv1d", wide * kernel),
        )
        found[layer - 1] = (looked, (state,))
    return found


def _primes(least: int, count: int) -> list[int]:
    """Return the first *count* primes that are *least* or more."""
    found: list[int] = []
    value = max(2, least)
    while len(found) < count:
        if value == 2 or (value % 2 and all(value % divisor for divisor in range(3, isqrt(value) + 1, 2))):
            found.append(value)
        value += 1
    return found


STREAMS: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {"glm5_next_text": _glm5_next, "hy_v4": _hy_v4, "qwen4_exp_text": _qwen4}
)
