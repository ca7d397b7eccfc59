"""Hybrids that list the kind of each layer in their own pattern: Nemotron-H, Kimi Linear, Zamba 2."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped, latent, latent_cached
from pytest_longctx.shapes.caches import Attention
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import ends, layer_count
from pytest_longctx.shapes.families.hybrid import ssm_dtype
from pytest_longctx.shapes.families.latent import latent_sizes
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.recurrent import DeltaNet, Mamba2
from pytest_longctx.shapes.tensors import Tensor, linear, norm

NEMOTRON: Mapping[str, str] = MappingProxyType(
    {
        "M": "mamba",
        "-": "mlp",
        "*": "attention",
        "E": "moe",
        "mamba": "mamba",
        "mlp": "mlp",
        "attention": "attention",
        "moe": "moe",
        "linear_attention": "mamba",
        "full_attention": "attention",
    }
)
"""Letters of ``hybrid_override_pattern`` and names of ``layers_block_type``."""


def _pattern(k: Keys) -> list[str]:
    """Return the kind of each layer in the pattern. Attention, feed-forward and recurrent mixers are separate layers here."""
    stated = layer_count(k) if k.has("num_hidden_layers") else None
    for key in ("hybrid_override_pattern", "layers_block_type", "layer_types"):
        if not k.has(key):
            continue
        value = k.raw(key)
        items = [c for c in value if c != "|"] if isinstance(value, str) else list(k.sequence(key) or [])
        if set(map(str, items)) - set(NEMOTRON) or not items or len(items) > 4096:
            raise k.refuse(key, f"unknown kind of layer: {shown(value)}")
        if stated is not None and stated != len(items):
            raise k.refuse(key, f"the pattern has {len(items)} layers, but num_hidden_layers is {stated}")
        return [NEMOTRON[str(item)] for item in items]
    raise k.refuse("hybrid_override_pattern", "this key is missing")


def nemotron_mamba(k: Keys, hidden: int) -> Mamba2:
    """Return the sizes of the Mamba-2 layers in Nemotron-H's pattern."""
    for name in ("expand", "mamba_expand", "chunk_size", "mamba_chunk_size"):
        k.raw(name)  # the heads say it
    return Mamba2(
        hidden,
        k.stated("mamba_num_heads"),
        k.stated("mamba_head_dim"),
        k.count("n_groups", "mamba_n_groups"),
        k.stated("ssm_state_size", "mamba_d_state"),
        k.count("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=k.flag("use_conv_bias", default=True),
        bias=k.flag("mamba_proj_bias") or k.flag("use_bias"),
    )


def _nemotron_h(k: Keys) -> Body:
    hidden, vocabulary, kinds = k.stated("hidden_size"), k.stated("vocab_size"), _pattern(k)
    heads = k.stated("num_attention_heads")
    dim = k.maybe("head_dim", "attention_head_dim", least=1) or hidden // heads
    k.raw("attention_head_dim")
    sizes = Heads(hidden, heads, k.count("num_key_value_heads", default=heads), dim, dim)
    bias, before = k.flag("attention_bias"), norm("norm", hidden)
    made: dict[str, Layer] = {}
    if "mamba" in kinds:
        net = nemotron_mamba(k, hidden)
        # The engines keep this state in FP32 unless the config says otherwise.
        made["mamba"] = Layer((net.cached(ssm_dtype(k) or "float32"),), (*net.tensors(), *before))
    if "attention" in kinds:
        made["attention"] = Layer((cached(sizes),), (*grouped(sizes, Details(bias, bias), "mixer"), *before))
    if "mlp" in kinds:
        width = k.stated("intermediate_size")
        made["mlp"] = Layer((), (*dense(hidden, width, gated=False, bias=k.flag("mlp_bias"), path="mixer"), *before))
    if "moe" in kinds:
        made["moe"] = Layer((), (*mixture(hidden, _nemotron_experts(k), "mixer"), *before))
    _unused(k)
    k.raw("tie_word_embeddings")  # the engines' class has two tables, whatever it says
    outside = (*ends(Keys({}), hidden, vocabulary), *norm("norm_f", hidden))
    return Body(hidden, vocabulary, tuple(made[kind] for kind in kinds), outside)


def _nemotron_experts(k: Keys) -> Experts:
    width = k.stated("moe_intermediate_size")
    shared = (k.maybe("n_shared_experts") or 0) * (k.maybe("moe_shared_expert_intermediate_size") or 0)
    count, used = mixtures.routed(k)
    return Experts(count, used, width, shared, gated=False, input_width=k.maybe("moe_latent_size") or 0)


def _unused(k: Keys) -> None:
    """Mark as read the keys of draft layers, and of kinds of layers that the model's pattern may not have."""
    names = """intermediate_size moe_intermediate_size n_routed_experts n_shared_experts moe_shared_expert_intermediate_size
    num_experts_per_tok moe_shared_expert_overlap mtp_hybrid_override_pattern mtp_layers_block_type num_nextn_predict_layers
    mamba_num_heads mamba_head_dim n_groups ssm_state_size conv_kernel use_conv_bias mamba_proj_bias use_bias mlp_bias
    sliding_window use_mamba_kernels moe_latent_size mamba_d_conv mamba_d_state expand mamba_ssm_cache_dtype
    mamba_state_dtype time_step_rank layer_types layers_block_type"""
    for name in names.split():
        if name == "sliding_window" and k.raw(name):
            raise k.refuse(name, "a window is not supported for this model family")
        k.raw(name)


def _kimi_linear(k: Keys) -> Body:
    """
    Return the layers of Kimi Linear and K3: a pattern of Kimi Delta Attention and latent attention; the file counts
    layers from 1.
    """
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    attends, net = _kimi_layers(k, hidden, layers)
    sizes = replace(latent_sizes(k, hidden), output_gate=k.flag("mla_use_output_gate"))
    sparse, mixed = mixtures.told_sparse(k, layers), mixture(hidden, _kimi_experts(k))
    plain = dense(hidden, k.stated("intermediate_size"))
    windows.draft_layers(k)
    # With attention over residuals each half of a layer has a norm and a projection to one number more.
    residuals = k.maybe("attn_res_block_size") is not None
    norms = Tensor("norms", hidden, copies=6 if residuals else 2)
    latent_layer, latent_cache, state = latent(sizes), latent_cached(sizes), net.cached("float32")
    stack = [
        Layer((latent_cache,), (*latent_layer, norms, *(mixed if each else plain)))
        if full
        else Layer((state,), (*net.tensors("self_attn"), norms, *(mixed if each else plain)))
        for full, each in zip(attends, sparse, strict=True)
    ]
    outside = (*ends(k, hidden, vocabulary), Tensor("norms", hidden, copies=3 if residuals else 1))
    return Body(hidden, vocabulary, tuple(stack), outside)


def _kimi_layers(k: Keys, hidden: int, layers: int) -> tuple[list[bool], DeltaNet]:
    """Return which layers of Kimi's pattern have attention (True), and the sizes of the others."""
    table = k.table("linear_attn_config")
    if table is None:
        raise k.refuse("linear_attn_config", "this key is missing")
    full, recurrent = table.numbers("full_attn_layers"), table.numbers("kda_layers")
    whole = set(range(1, layers + 1))
    if full is None or recurrent is None or set(full) | set(recurrent) != whole or set(full) & set(recurrent):
        raise k.refuse(
            "linear_attn_config",
            f"kda_layers and full_attn_layers together must name each layer from 1 to {layers} once",
        )
    heads, dim, kernel = (
        table.stated("num_heads"),
        table.stated("head_dim"),
        table.count("short_conv_kernel_size", default=4),
    )
    net = DeltaNet(hidden, heads, heads, dim, dim, kernel, gate_rank=dim, full_gate=table.flag("use_full_rank_gate"))
    table.raw("gate_lower_bound")
    if unread := table.unread():
        raise k.refuse(unread.removeprefix("text_config."), "this setting is not supported for this model family")
    return [i in set(full) for i in range(1, layers + 1)], net


def _kimi_experts(k: Keys) -> Experts:
    width = k.stated("moe_intermediate_size")
    shared = (k.maybe("num_shared_experts", "n_shared_experts") or 0) * width
    inner = k.maybe("routed_expert_hidden_size") or 0
    count, used = mixtures.routed(k)
    return Experts(count, used, width, shared, input_width=inner, input_norm=k.flag("latent_moe_use_norm"))


def _zamba2(k: Keys) -> Body:
    """
    Return the layers of Zamba 2's pattern: Mamba-2 throughout; one or two shared attention blocks run repeatedly, each
    run with its own cache.
    """
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    kinds = k.per_layer("layers_block_type", layers)
    if kinds is None:
        raise k.refuse("layers_block_type", "this key is missing")
    if set(map(str, kinds)) - {"mamba", "linear_attention", "hybrid"}:
        raise k.refuse("layers_block_type", "unknown kind of layer")
    heads, count = k.count("n_mamba_heads", default=8), k.count("num_mem_blocks", default=1, most=16)
    inner = k.count("mamba_expand", default=2) * hidden
    groups, state = k.count("mamba_ngroups", default=1), k.count("mamba_d_state", default=64)
    net = Mamba2(
        hidden,
        heads,
        inner // heads,
        groups,
        state,
        k.count("mamba_d_conv", default=4),
        k.flag("use_conv_bias", default=True),
    )
    runs = [i for i, kind in enumerate(kinds) if kind == "hybrid"]
    cache, shared = _zamba2_block(k, hidden, count, len(runs))
    plain = Layer((net.cached(ssm_dtype(k)),), (*net.tensors("mamba"), *norm("input_layernorm", hidden)))
    hybrid = Layer((*plain.caches, cache), (*plain.tensors, *linear("linear", hidden, hidden)))
    k.raw("hybrid_layer_ids")
    stack = tuple(hybrid if kind == "hybrid" else plain for kind in kinds)
    return Body(hidden, vocabulary, stack, (*ends(k, hidden, vocabulary, tied=True), *norm("norm", hidden), *shared))


def _zamba2_block(k: Keys, hidden: int, count: int, runs: int) -> tuple[Attention, tuple[Tensor, ...]]:
    """
    Return Zamba 2's shared blocks: attention reads two concatenated hidden states; each run has its own low-rank
    adapters.
    """
    heads, wide = k.stated("num_attention_heads"), k.maybe("attention_hidden_size", least=1) or 2 * hidden
    for name in (
        "kv_channels",
        "num_query_groups",
        "mamba_headdim",
        "use_mem_rope",
        "use_long_context",
        "ffn_hidden_size",
        "add_bias_linear",
        "use_conv_bias",
        "vocab_size",
    ):
        k.raw(name)
    kv_heads, dim = (
        k.count("num_key_value_heads", default=heads),
        k.maybe("attention_head_dim", least=1) or wide // heads,
    )
    if k.flag("add_bias_linear"):
        raise k.refuse("add_bias_linear", "biases are not supported for this model family")
    width, rank = k.stated("intermediate_size", "ffn_hidden_size"), k.count("adapter_rank", default=128)
    block = (
        *linear("shared.qkv_proj", (heads + 2 * kv_heads) * dim, wide, shards=heads),
        *linear("shared.o_proj", hidden, heads * dim, shards=heads),
        *dense(hidden, width, path="shared.feed_forward"),
        Tensor("shared.norms", wide + hidden),
    )
    adapters = (*linear("adapter.0", rank, hidden, shards=1), *linear("adapter.1", 2 * width, rank)) * runs
    k.raw("use_shared_mlp_adapter")  # its class has adapters of the feed-forward layers, whatever it says
    if k.flag("use_shared_attention_adapter"):
        adapters += (*linear("adapter.q0", rank, wide, shards=1), *linear("adapter.q1", wide, rank)) * (3 * runs)
    return Attention(kv_heads, dim, dim, heads=heads), block * count + adapters


PATTERN: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {"nemotron_h": _nemotron_h, "kimi_linear": _kimi_linear, "zamba2": _zamba2}
)
