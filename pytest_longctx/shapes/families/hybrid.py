"""Models with recurrent layers: a state of fixed size per request, without or in addition to attention."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped
from pytest_longctx.shapes.caches import Part, State
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import Basics, basics, ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.recurrent import DeltaNet, Mamba1, Mamba2, lightning, lightning_cached, short_convolution
from pytest_longctx.shapes.tensors import Tensor, linear, norm

RECURRENT = ("linear_attention", "mamba", "mamba2", "conv", "recurrent", "short_conv")
"""Names of recurrent layers; their meaning depends on the family."""


def _body(k: Keys, b: Basics, layers: list[Layer], *more: Tensor, tied: bool = False) -> Body:
    outside = (*ends(k, b.hidden, b.vocabulary, tied=tied), *norm("norm", b.hidden), *more)
    return Body(b.hidden, b.vocabulary, tuple(layers), outside)


def recurrent_kinds(
    k: Keys, key: str, layers: int, attention: tuple[str, ...] = ("full_attention", "attention")
) -> list[bool] | None:
    """Return which layers of a hybrid have attention (True), from a list of names; None without a list."""
    names = k.per_layer(key, layers, extra=windows.draft_layers(k)) if k.has(key) else None
    if names is None:
        return None
    for name in names:
        if name not in (*attention, *RECURRENT):
            raise k.refuse(key, f"unknown kind of layer: {shown(name)}")
    return [name in attention for name in names]


def ssm_dtype(k: Keys) -> str | None:
    """Return the dtype of a hybrid's recurrent (SSM) state in the config; None if the config names none."""
    return k.word("mamba_ssm_cache_dtype") or k.word("mamba_ssm_dtype")


def delta_net(k: Keys, hidden: int) -> DeltaNet:
    return DeltaNet(
        hidden,
        key_heads=k.stated("linear_num_key_heads"),
        value_heads=k.stated("linear_num_value_heads"),
        key_dim=k.stated("linear_key_head_dim"),
        value_dim=k.stated("linear_value_head_dim"),
        kernel=k.stated("linear_conv_kernel_dim"),
    )


def _qwen_hybrid(experts: Callable[[Keys, Basics], tuple[Experts, list[bool]]] | None) -> Callable[[Keys], Body]:
    """Return the reader of Qwen3-Next, 3.5 and 3.6: Gated DeltaNet, with full attention at a fixed interval."""

    def read(k: Keys) -> Body:
        b = basics(k)
        attends = recurrent_kinds(k, "layer_types", b.layers)
        step = k.count("full_attention_interval", default=4)
        attends = attends or [(i + 1) % step == 0 for i in range(b.layers)]
        sizes = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
        gate = "query" if k.flag("attn_output_gate", default=True) else ""
        bias = k.flag("attention_bias")
        attention, net = grouped(sizes, Details(bias, bias, "head", gate)), delta_net(k, b.hidden)
        state, norms = net.cached(ssm_dtype(k)), (Tensor("norms", b.hidden, copies=2),)
        forward = _forward(k, b, experts)
        layers = [
            Layer((cached(sizes),), (*attention, *norms, *each))
            if full
            else Layer((state,), (*net.tensors(), *norms, *each))
            for full, each in zip(attends, forward, strict=True)
        ]
        k.raw("output_gate_type")
        return _body(k, b, layers)

    return read


def _forward(
    k: Keys, b: Basics, experts: Callable[[Keys, Basics], tuple[Experts, list[bool]]] | None, path: str = "mlp"
) -> list[tuple[Tensor, ...]]:
    if experts is None:
        return [dense(b.hidden, k.stated("intermediate_size"), path=path)] * b.layers
    made, sparse = experts(k, b)
    mixed = mixture(b.hidden, made, path)
    plain = () if all(sparse) else dense(b.hidden, k.stated("intermediate_size"), path=path)
    k.raw("intermediate_size")  # files keep it where no layer is dense
    return [mixed if each else plain for each in sparse]


def _olmo_hybrid(k: Keys) -> Body:
    """Return the layers of the OLMo hybrid: Gated DeltaNet as in Qwen3-Next, with separate convolutions."""
    b = basics(k)
    attends = recurrent_kinds(k, "layer_types", b.layers) or [(i + 1) % 4 == 0 for i in range(b.layers)]
    sizes, net = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), delta_net(k, b.hidden)
    rest = (*dense(b.hidden, k.stated("intermediate_size")), Tensor("norms", b.hidden, copies=2))
    attention = grouped(sizes, Details(k.flag("attention_bias"), k.flag("attention_bias"), "wide"))
    layers = [
        Layer((cached(sizes),), (*attention, *rest))
        if full
        else Layer((net.cached(ssm_dtype(k)),), (*net.tensors(), *rest))
        for full in attends
    ]
    return _body(k, b, layers)


def mamba2_sizes(k: Keys, hidden: int, prefix: str = "mamba_") -> Mamba2:
    """Return the sizes of the recurrent Mamba-2 layers of hybrids, from the keys of Bamba, Falcon-H1 and Granite."""
    expand = k.count(f"{prefix}expand", default=2)
    heads = k.stated(f"{prefix}n_heads")
    inner = k.maybe(f"{prefix}d_ssm", least=1) or expand * hidden
    head_dim = k.raw(f"{prefix}d_head")
    dim = inner // heads if head_dim in (None, "auto") else k.count(f"{prefix}d_head")
    if heads * dim != inner:
        raise k.refuse(f"{prefix}d_head", f"{heads} heads of size {dim} do not make {inner}")
    return Mamba2(
        hidden,
        heads,
        dim,
        k.count(f"{prefix}n_groups", default=1),
        k.stated(f"{prefix}d_state"),
        k.stated(f"{prefix}d_conv"),
        conv_bias=k.flag(f"{prefix}conv_bias", default=True),
        bias=k.flag(f"{prefix}proj_bias"),
    )


def _bamba(k: Keys) -> Body:
    b, net = basics(k), mamba2_sizes(k, k.stated("hidden_size"))
    chosen = k.numbers("attn_layer_indices")
    attends = recurrent_kinds(k, "layer_types", b.layers) or [i in set(chosen or ()) for i in range(b.layers)]
    sizes, bias = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), k.flag("attention_bias")
    rest = (
        *dense(b.hidden, k.stated("intermediate_size"), bias=k.flag("mlp_bias"), path="feed_forward"),
        Tensor("norms", b.hidden, copies=2),
    )
    attention, state = grouped(sizes, Details(bias, bias)), net.cached(ssm_dtype(k))
    layers = [
        Layer((cached(sizes),), (*attention, *rest)) if full else Layer((state,), (*net.tensors("mamba"), *rest))
        for full in attends
    ]
    return _body(k, b, layers)


def _granite_hybrid(k: Keys) -> Body:
    """Return the layers of Granite 4: Mamba-2 and attention, with or without experts, and a shared dense layer."""
    b, net = basics(k), mamba2_sizes(k, k.stated("hidden_size"))
    attends = (
        recurrent_kinds(k, "layer_types", b.layers)
        or recurrent_kinds(k, "layers_block_type", b.layers)
        or [False] * b.layers
    )
    sizes, bias = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), k.flag("attention_bias")
    shared = k.stated("shared_intermediate_size")
    count = k.maybe("num_local_experts") or 0
    width = k.maybe("intermediate_size") or 0
    mixed = (
        mixture(b.hidden, Experts(count, k.count("num_experts_per_tok"), width), "block_sparse_moe") if count else ()
    )
    k.raw("num_experts_per_tok")
    rest = (*mixed, *dense(b.hidden, shared, path="shared_mlp"), Tensor("norms", b.hidden, copies=2))
    attention, state = grouped(sizes, Details(bias, bias)), net.cached(ssm_dtype(k))
    layers = [
        Layer((cached(sizes),), (*attention, *rest)) if full else Layer((state,), (*net.tensors("mamba"), *rest))
        for full in attends
    ]
    return _body(k, b, layers)


def _falcon_h1(k: Keys) -> Body:
    """Return the layers of the Falcon-H1 hybrid, each with attention and Mamba-2 side by side."""
    b, net = basics(k), mamba2_sizes(k, k.stated("hidden_size"))
    if not k.flag("mamba_rms_norm", default=False):
        net = Mamba2(**{**{f: getattr(net, f) for f in Mamba2.__slots__}, "gate_norm": False})
    sizes, bias = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), k.flag("attention_bias")
    rest = (
        *dense(b.hidden, k.stated("intermediate_size"), bias=k.flag("mlp_bias"), path="feed_forward"),
        Tensor("norms", b.hidden, copies=2),
    )
    k.raw("projectors_bias")
    k.raw("mamba_use_mlp")
    k.raw("mlp_expansion_factor")  # the width says it
    layer = Layer(
        (cached(sizes), net.cached(ssm_dtype(k))), (*grouped(sizes, Details(bias, bias)), *net.tensors("mamba"), *rest)
    )
    return _body(k, b, [layer] * b.layers)


def _jamba(k: Keys) -> Body:
    b = basics(k)
    inner = k.count("mamba_expand", default=2) * b.hidden
    step = -(-b.hidden // 16) if k.raw("mamba_dt_rank") in (None, "auto") else k.count("mamba_dt_rank")
    net = Mamba1(
        b.hidden,
        inner,
        k.count("mamba_d_state", default=16),
        k.count("mamba_d_conv", default=4),
        step,
        k.flag("mamba_conv_bias", default=True),
        k.flag("mamba_proj_bias"),
        inner_norms=True,
    )
    if k.has("mamba_inner_layernorms") and not k.flag("mamba_inner_layernorms"):
        raise k.refuse("mamba_inner_layernorms", "a scan without these norms is not supported")
    period, offset = k.count("attn_layer_period"), k.count("attn_layer_offset", least=0)
    every, first, count = (
        k.count("expert_layer_period"),
        k.count("expert_layer_offset", least=0),
        k.count("num_experts", default=1),
    )
    sizes, width = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim), k.stated("intermediate_size")
    mixed = mixture(b.hidden, Experts(count, k.count("num_experts_per_tok"), width), "feed_forward")
    plain, norms = dense(b.hidden, width, path="feed_forward"), Tensor("norms", b.hidden, copies=2)
    attends = (
        recurrent_kinds(k, "layer_types", b.layers)
        or recurrent_kinds(k, "layers_block_type", b.layers)
        or [i % period == offset for i in range(b.layers)]
    )
    layers = []
    for i, full in enumerate(attends):
        forward = mixed if count > 1 and i % every == first else plain
        own, cache = (grouped(sizes), cached(sizes)) if full else (net.tensors("mamba"), net.cached(ssm_dtype(k)))
        layers.append(Layer((cache,), (*own, norms, *forward)))
    return _body(k, b, layers)


def _mamba(k: Keys) -> Body:
    hidden, layers, vocabulary = k.stated("hidden_size", "d_model"), layer_count(k), k.stated("vocab_size")
    inner = k.maybe("intermediate_size", least=1) or k.count("expand", default=2) * hidden
    k.raw("expand")
    step = -(-hidden // 16) if k.raw("time_step_rank") in (None, "auto") else k.count("time_step_rank")
    net = Mamba1(
        hidden,
        inner,
        k.count("state_size", default=16),
        k.count("conv_kernel", default=4),
        step,
        k.flag("use_conv_bias", default=True),
        k.flag("use_bias"),
    )
    layer = Layer((net.cached(ssm_dtype(k)),), (*net.tensors(), *norm("norm", hidden)))
    for name in ("d_model", "n_layer", "d_inner", "ssm_cfg", "pad_vocab_size_multiple", "use_falcon_mambapy"):
        k.raw(name)
    k.raw("use_mambapy")
    return Body(
        hidden, vocabulary, (layer,) * layers, (*ends(k, hidden, vocabulary, tied=True), *norm("norm_f", hidden))
    )


def _mamba2(k: Keys) -> Body:
    hidden, layers, vocabulary = k.stated("hidden_size", "d_model"), layer_count(k), k.stated("vocab_size")
    heads, dim, expand = k.stated("num_heads"), k.stated("head_dim"), k.count("expand", default=2)
    if heads * dim != expand * hidden:
        raise k.refuse(
            "num_heads",
            f"{heads} heads of {dim} make {heads * dim}, but expand x hidden_size = {expand} x {hidden} is required",
        )
    net = Mamba2(
        hidden,
        heads,
        dim,
        k.count("n_groups", default=8),
        k.stated("state_size"),
        k.count("conv_kernel", default=4),
        k.flag("use_conv_bias", default=True),
        k.flag("use_bias"),
    )
    for name in ("time_step_rank", "rms_norm", "norm_before_gate", "chunk_size"):
        k.raw(name)
    layer = Layer((net.cached(ssm_dtype(k)),), (*net.tensors(), *norm("norm", hidden)))
    return Body(hidden, vocabulary, (layer,) * layers, (*ends(k, hidden, vocabulary), *norm("norm_f", hidden)))


def _lfm2(k: Keys) -> Body:
    """Return the layers of the LFM2 hybrid: gated short convolutions, and attention in some layers."""
    b = basics(k)
    names, indices = recurrent_kinds(k, "layer_types", b.layers), k.numbers("full_attn_idxs")
    attends = names or [indices is None or i in set(indices) for i in range(b.layers)]
    kernel, bias = k.count("conv_L_cache", default=3), k.flag("conv_bias")
    width = k.maybe("conv_dim", least=1) or b.hidden
    for name in (
        "conv_dim_out",
        "block_use_xavier_init",
        "block_use_swiglu",
        "block_mlp_init_scale",
        "block_out_init_scale",
        "conv_use_xavier_init",
    ):
        k.raw(name)
    for name in ("block_dim", "block_norm_eps", "num_heads", "use_pos_enc", "theta"):
        k.raw(name)
    sizes = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    forward = _lfm2_forward(k, b)
    state = State("short_conv", Part((kernel - 1) * width), Part(0))
    attention, conv = grouped(sizes, Details(qk_norm="head")), short_convolution(b.hidden, width, kernel, bias=bias)
    norms = Tensor("norms", b.hidden, copies=2)
    layers = [
        Layer((cached(sizes),), (*attention, norms, *each)) if full else Layer((state,), (*conv, norms, *each))
        for full, each in zip(attends, forward, strict=True)
    ]
    both = ends(k, b.hidden, b.vocabulary, tied=True)
    if k.has("tie_embedding"):  # LFM2's own name, which counts
        both = ends(Keys({"tie_word_embeddings": k.flag("tie_embedding")}), b.hidden, b.vocabulary)
    return Body(b.hidden, b.vocabulary, tuple(layers), (*both, *norm("norm", b.hidden)))


def _lfm2_forward(k: Keys, b: Basics) -> list[tuple[Tensor, ...]]:
    width = k.stated("block_ff_dim", "intermediate_size")
    if k.flag("block_auto_adjust_ff_dim", default=False):
        width = int(2 * width / 3)
        factor = k.raw("block_ffn_dim_multiplier")
        if isinstance(factor, int | float) and not isinstance(factor, bool) and 0 < factor < 100:
            width = int(factor * width)
        multiple = k.count("block_multiple_of", default=256)
        width = multiple * -(-width // multiple)
    for name in ("block_ffn_dim_multiplier", "block_multiple_of", "intermediate_size"):
        k.raw(name)
    plain = dense(b.hidden, width, path="feed_forward")
    if not k.maybe("num_experts", "num_local_experts"):
        return [plain] * b.layers
    first = k.count("num_dense_layers", default=0, least=0)
    k.raw("use_expert_bias")
    experts = Experts(*mixtures.routed(k), k.stated("moe_intermediate_size"))
    mixed = mixture(b.hidden, experts, "feed_forward")
    return [plain if i < first else mixed for i in range(b.layers)]


def _minimax_text(k: Keys) -> Body:
    """Return the layers of MiniMax-Text-01 and M1: lightning attention, with full attention in some layers."""
    b = basics(k)
    marks = k.numbers("attn_type_list", b.layers)
    attends = [bool(mark) for mark in marks] if marks else recurrent_kinds(k, "layer_types", b.layers)
    k.raw("layer_types")
    k.raw("block_size")
    if attends is None:
        raise k.refuse("attn_type_list", "this key is missing")
    if k.maybe("shared_intermediate_size"):
        raise k.refuse("shared_intermediate_size", "shared experts are not supported for this model family")
    k.raw("shared_moe_mode")
    sizes = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    experts = mixture(b.hidden, Experts(*mixtures.routed(k), k.stated("intermediate_size")))
    rest = (*experts, Tensor("norms", b.hidden, copies=2))
    linear_layer = Layer((lightning_cached(b.heads, b.head_dim),), (*lightning(b.hidden, b.heads, b.head_dim), *rest))
    full_layer = Layer((cached(sizes),), (*grouped(sizes), *rest))
    return _body(k, b, [full_layer if full else linear_layer for full in attends])


def _rwkv(k: Keys) -> Body:
    """Return the layers of RWKV 4, recurrent throughout: five vectors of state in each layer."""
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    wide = k.maybe("attention_hidden_size", least=1) or hidden
    width = k.maybe("intermediate_size", least=1) or 4 * hidden
    state = State("rwkv", Part(2 * hidden), Part(3 * wide), "float32")
    tensors = (
        Tensor("norms", hidden, copies=4),
        Tensor("attention.time", wide, copies=2),
        Tensor("mixes", hidden, copies=5),
        *linear("attention.key", 3 * wide, hidden),
        *linear("attention.output", hidden, wide),
        *linear("feed_forward.key", width, hidden),
        *linear("feed_forward.receptance", hidden, hidden),
        *linear("feed_forward.value", hidden, width),
    )
    outside = (*ends(k, hidden, vocabulary), Tensor("norms", hidden, copies=4))
    return Body(hidden, vocabulary, (Layer((state,), tensors),) * layers, outside)


QWEN_EXPERTS = mixtures.mixed(
    shared="shared_expert_intermediate_size",
    shared_gate=True,
    sparse=mixtures.qwen_sparse,
    width=("moe_intermediate_size",),
)

HYBRID: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "qwen3_next": _qwen_hybrid(QWEN_EXPERTS),
        "qwen3_5_text": _qwen_hybrid(None),
        "qwen3_5_moe_text": _qwen_hybrid(QWEN_EXPERTS),
        "olmo_hybrid": _olmo_hybrid,
        "bamba": _bamba,
        "granitemoehybrid": _granite_hybrid,
        "falcon_h1": _falcon_h1,
        "jamba": _jamba,
        "mamba": _mamba,
        "falcon_mamba": _mamba,
        "mamba2": _mamba2,
        "lfm2": _lfm2,
        "lfm2_moe": _lfm2,
        "minimax": _minimax_text,
        "minimax_text_01": _minimax_text,
        "minimax_m1": _minimax_text,
        "rwkv": _rwkv,
    }
)
