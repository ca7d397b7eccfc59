"""Decoders whose layers differ: two shapes of heads, shared keys and values, or different widths."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import Basics, basics, ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import ANY, Tensor, linear, norm


def _closed(k: Keys, b: Basics, layers: list[Layer], *more: Tensor) -> Body:
    outside = (*ends(k, b.hidden, b.vocabulary), *norm("norm", b.hidden), *more)
    return Body(b.hidden, b.vocabulary, tuple(layers), outside)


def _mimo_v2(k: Keys) -> Body:
    """
    Return the layers of MiMo-V2: those marked 1 have sliding attention, with their own number and dimension of KV
    heads.
    """
    b = basics(k)
    value_dim = k.count("v_head_dim", default=b.head_dim)
    whole = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, value_dim)
    local = Heads(
        b.hidden,
        k.count("swa_num_attention_heads", default=b.heads),
        k.count("swa_num_key_value_heads", default=b.kv_heads),
        k.count("swa_head_dim", default=b.head_dim),
        k.count("swa_v_head_dim", default=value_dim),
    )
    sink = (k.flag("add_full_attention_sink_bias"), k.flag("add_swa_attention_sink_bias"))
    for name in ("attention_chunk_size", "sliding_window_size"):
        k.raw(name)  # they repeat the window
    marks = k.numbers("hybrid_layer_pattern", b.layers)
    if marks is None:
        raise k.refuse("hybrid_layer_pattern", "this key is missing")
    sparse, window = mixtures.told_sparse(k, b.layers), k.stated("sliding_window")
    mixed = mixture(
        b.hidden,
        Experts(
            *mixtures.routed(k),
            k.stated("moe_intermediate_size"),
            (k.maybe("n_shared_experts") or 0) * k.stated("moe_intermediate_size"),
        ),
    )
    plain, bias = dense(b.hidden, k.stated("intermediate_size")), k.flag("attention_bias")
    layers = [
        Layer(
            (cached(local if mark else whole, "sliding" if mark else "full", window if mark else 0),),
            (
                *grouped(local if mark else whole, Details(qkv_bias=bias, sinks=sink[bool(mark)])),
                Tensor("norms", b.hidden, copies=2),
                *(mixed if each else plain),
            ),
        )
        for mark, each in zip(marks, sparse, strict=True)
    ]
    return _closed(k, b, layers)


def _step(k: Keys) -> Body:
    """Return the layers of Step 3.5 and 3.7: sliding layers may have more query heads; each head is gated."""
    other = k.table("attention_other_setting")
    heads_local = other.maybe("num_attention_heads") if other else k.maybe("num_sliding_attention_heads")
    groups = k.maybe("num_attention_groups")
    b = basics(k)
    kv_heads = groups or b.kv_heads
    for name, own in (("num_attention_groups", kv_heads), ("head_dim", b.head_dim)):
        if other and (value := other.maybe(name)) not in (None, own):
            raise k.refuse(
                f"attention_other_setting.{name}",
                f"{value} differs from {own}, the value of the other layers; this is not supported",
            )
    gating = "head" if k.flag("use_head_wise_attn_gate", default=True) else ""
    details, details_bias = Details(qk_norm="head", gate=gating), k.flag("attention_bias")
    if details_bias:
        raise k.refuse("attention_bias", "this setting is not supported for this model family")
    sparse = _step_sparse(k, b.layers)
    count, used = mixtures.routed(k)
    shared = k.maybe("share_expert_dim", "share_expert_dims") or 0
    k.raw("n_shared_experts")
    mixed = mixture(b.hidden, Experts(count, used, k.stated("moe_intermediate_size"), shared))
    plain = dense(b.hidden, k.stated("intermediate_size"))
    layers = []
    for (span, window), each in zip(windows.everything(k, b.layers), sparse, strict=True):
        query = heads_local if span == "sliding" and heads_local else b.heads
        sizes = Heads(b.hidden, query, kv_heads, b.head_dim, b.head_dim)
        forward = mixed if each else plain
        layers.append(
            Layer(
                (cached(sizes, span, window),),
                (*grouped(sizes, details), Tensor("norms", b.hidden, copies=2), *forward),
            )
        )
    k.raw("use_moe_router_bias")
    if not k.flag("use_qk_norm", default=True):
        raise k.refuse("use_qk_norm", "queries and keys without norms are not supported for this model family")
    return _closed(k, b, layers)


def _step_sparse(k: Keys, layers: int) -> list[bool]:
    listed = k.raw("moe_layers_enum")
    if listed is None:
        return mixtures.told_sparse(k, layers)
    items = listed.split(",") if isinstance(listed, str) else listed
    if not isinstance(items, list) or not all(str(item).strip().isdecimal() for item in items):
        raise k.refuse(
            "moe_layers_enum", f"must be layer numbers, in a list or separated by commas; found {shown(listed)}"
        )
    chosen = {int(str(item)) for item in items}
    return [i in chosen for i in range(layers)]


def _minimax_m3(k: Keys) -> Body:
    """Return the layers of MiniMax-M3: block-sparse attention, whose indexer caches a key of each token."""
    b = basics(k)
    sparse_table = k.table("sparse_attention_config")
    marks = sparse_table.numbers("sparse_attention_freq", b.layers) if sparse_table else None
    index_heads = sparse_table.maybe("sparse_num_index_heads") if sparse_table else k.maybe("index_n_heads")
    index_dim = (sparse_table.maybe("sparse_index_dim") if sparse_table else k.maybe("index_head_dim")) or 0
    names = k.per_layer("layer_types", b.layers) if k.has("layer_types") else None
    if names is not None:
        if set(map(str, names)) - {"full_attention", "minimax_m3_sparse"}:
            raise k.refuse("layer_types", "unknown kind of layer")
        marks = [int(name == "minimax_m3_sparse") for name in names]
    marks = marks or [0] * b.layers
    attended = _m3_attended(k, sparse_table) if any(marks) else 0
    for key in ("moe_intermediate_size", "use_qk_norm", "use_gemma_norm", "use_routing_bias"):
        k.raw(key)
    if k.flag("attention_output_gate"):
        raise k.refuse("attention_output_gate", "this setting is not supported for this model family")
    if (k.maybe("n_shared_experts") or 1) != 1:
        raise k.refuse("n_shared_experts", "more than one shared expert is not supported for this model family")
    experts = Experts(*mixtures.routed(k), k.stated("intermediate_size"), k.maybe("shared_intermediate_size") or 0)
    heads = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    sparse = mixtures.sparse_layers(k, b.layers)
    plain = () if all(sparse) else dense(b.hidden, k.stated("dense_intermediate_size"))
    search = (
        *linear("self_attn.indexer.q_proj", (index_heads or 0) * index_dim, b.hidden, shards=1),
        *linear("self_attn.indexer.k_proj", index_dim, b.hidden, shards=1),
        *norm("self_attn.indexer.norms", index_dim, copies=2),
    )
    mixed, attention = mixture(b.hidden, experts), grouped(heads, Details(qk_norm="head"))
    layers = [
        Layer(
            (cached(heads, index_dim=index_dim if mark else 0, attended=attended if mark else 0),),
            (*attention, *(search if mark else ()), Tensor("norms", b.hidden, copies=2), *(mixed if each else plain)),
        )
        for mark, each in zip(marks, sparse, strict=True)
    ]
    return _closed(k, b, layers)


def _m3_attended(k: Keys, table: Keys | None) -> int:
    """Return the maximum number of tokens that a sparse layer of MiniMax-M3 attends to."""
    if table is None:
        size, top, local = (
            k.count("index_block_size"),
            k.count("index_topk_blocks"),
            k.count("index_local_blocks", default=1),
        )
        return size * (top + local)
    size, top = table.stated("sparse_block_size"), table.stated("sparse_topk_blocks")
    around = [table.count(f"sparse_{name}_block", default=0, least=0) for name in ("local", "init")]
    return size * (top + sum(around))


def _laguna(k: Keys) -> Body:
    """Return the layers of Laguna, which differ in their number of query heads."""
    b = basics(k)
    heads = k.numbers("num_attention_heads_per_layer", b.layers) or [b.heads] * b.layers
    bias = k.flag("attention_bias")
    gate = "own" if k.raw("gating") not in (None, True, "per-head") else "head"
    kinds = k.per_layer("mlp_layer_types", b.layers)
    sparse = [str(kind) == "sparse" for kind in kinds] if kinds else [i > 0 for i in range(b.layers)]
    experts = Experts(
        *mixtures.routed(k),
        k.stated("moe_intermediate_size"),
        k.maybe("shared_expert_intermediate_size") or 0,
        correction=True,
    )
    mixed, plain = mixture(b.hidden, experts), dense(b.hidden, k.stated("intermediate_size"))
    layers = []
    for (span, window), query, each in zip(windows.everything(k, b.layers), heads, sparse, strict=True):
        sizes = Heads(b.hidden, query, b.kv_heads, b.head_dim, b.head_dim)
        own = grouped(sizes, Details(bias, bias, "head", gate))
        layers.append(
            Layer(
                (cached(sizes, span, window),), (*own, Tensor("norms", b.hidden, copies=2), *(mixed if each else plain))
            )
        )
    return _closed(k, b, layers)


def _nemotron_nas(k: Keys) -> Body:
    """
    Return the layers of Nemotron Super and Ultra: each states its width and its query heads per KV head; some have no
    attention.
    """
    hidden, layers, heads = k.stated("hidden_size"), layer_count(k), k.stated("num_attention_heads")
    blocks = k.per_layer("block_configs", layers)
    if blocks is None:
        raise k.refuse("block_configs", "this key is missing")
    k.raw("intermediate_size")
    k.raw("num_key_value_heads")
    dim = k.count("head_dim", default=hidden // heads) if hidden >= heads else k.count("head_dim")
    made = [_nas_block(Keys({"block": block}, prefix="block_configs."), hidden, heads, dim) for block in blocks]
    b = Basics(hidden, layers, heads, heads, dim, k.stated("vocab_size"))
    return _closed(k, b, made)


def _nas_block(k: Keys, hidden: int, heads: int, dim: int) -> Layer:
    block = k.table("block")
    attention, forward = (block.table("attention"), block.table("ffn")) if block else (None, None)
    if attention is None or forward is None:
        raise k.refuse("block", "must have the tables attention and ffn")
    for table in (attention, forward):
        for key in ("replace_with_linear", "sparsify", "window_length", "unshifted_sink", "num_sink_tokens"):
            if table.raw(key) not in (None, False):
                raise table.refuse(key, "this setting is not supported")
    tensors: tuple[Tensor, ...] = ()
    caches = ()
    if not attention.flag("no_op"):
        sizes = Heads(hidden, heads, max(1, heads // attention.count("n_heads_in_group")), dim, dim)
        caches, tensors = (cached(sizes),), (*grouped(sizes), *norm("input_layernorm", hidden))  # type: ignore[assignment]  # one cache or none
    if not forward.flag("no_op"):
        tensors += (*dense(hidden, _nas_width(forward, hidden)), *norm("post_attention_layernorm", hidden))
    return Layer(caches, tensors)


def _nas_width(k: Keys, hidden: int) -> int:
    """Return the width of a Nemotron block's feed-forward: ffn_mult x hidden size x 2/3, rounded up to a multiple of 256."""
    factor = k.raw("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1000:
        raise k.refuse("ffn_mult", f"must be a factor; found {shown(factor)}")
    return -(-int(2 * factor * hidden / 3) // 256) * 256


def _gemma4(k: Keys) -> Body:
    """
    Return the layers of Gemma 4: full layers have other heads and may use one projection for keys and values; the last
    layers share them.
    """
    b = basics(k, partial=True)
    types = windows.every("layer_interval", 6)(k, b.layers)
    types[-1] = windows.FULL  # the class insists
    if k.raw("use_bidirectional_attention") not in (None, False, "vision"):
        raise k.refuse("use_bidirectional_attention", "a model with bidirectional attention is not supported")
    same = k.flag("attention_k_eq_v")
    global_kv = (k.maybe("num_global_key_value_heads", least=1) if same else None) or b.kv_heads
    k.raw("num_global_key_value_heads")
    local = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    global_dim = k.count("global_head_dim", default=512)
    whole = Heads(b.hidden, b.heads, global_kv, global_dim, global_dim)
    first_shared, bias = (
        b.layers - k.count("num_kv_shared_layers", default=0, least=0, most=b.layers - 1),
        k.flag("attention_bias"),
    )
    width, doubled = k.stated("intermediate_size"), k.flag("use_double_wide_mlp")
    around = _gemma4_around(k, b)
    layers = []
    for i, (span, window) in enumerate(types):
        sizes, shares = whole if span == "full" else local, i >= first_shared
        details = Details(bias, bias, "head", keys_are_values=same and span == "full", own_kv_weights=not shares)
        forward = dense(b.hidden, width * (2 if doubled and shares else 1))
        layers.append(
            Layer(() if shares else (cached(sizes, span, window),), (*grouped(sizes, details), *forward, *around))
        )
    return _closed(k, b, layers, *_per_layer_tables(k, b))


def _gemma4_around(k: Keys, b: Basics) -> tuple[Tensor, ...]:
    """
    Return the weights around attention in each Gemma 4 layer: norms, per-layer input, and experts beside the dense
    layer.
    """
    made: tuple[Tensor, ...] = (Tensor("norms", b.hidden, copies=4),)
    if own := k.maybe("hidden_size_per_layer_input"):
        made += (*linear("per_layer_input_gate", own, b.hidden), *linear("per_layer_projection", b.hidden, own))
        made += norm("post_per_layer_input_norm", b.hidden)
    if k.flag("enable_moe_block"):
        experts = Experts(*mixtures.routed(k), k.stated("moe_intermediate_size"))
        made += (
            *mixture(b.hidden, experts, path="moe"),
            Tensor("norms", b.hidden, copies=4),
            Tensor("moe.scales", experts.count),
        )
    return made


def _per_layer_tables(k: Keys, b: Basics) -> tuple[Tensor, ...]:
    own = k.maybe("hidden_size_per_layer_input")
    if not own:
        k.raw("vocab_size_per_layer_input")
        return ()
    return (
        Tensor("embed_tokens_per_layer", k.count("vocab_size_per_layer_input"), own * b.layers, shards=ANY),
        *linear("per_layer_model_projection", own * b.layers, b.hidden),
        *norm("per_layer_projection_norm", own),
    )


def _gemma3n(k: Keys) -> Body:
    """Return the layers of Gemma 3n: the last layers share keys and values; each has low-rank and alternating updates."""
    b = basics(k, partial=True)
    types = windows.every("layer_interval", 5)(k, b.layers)
    shared = k.count("num_kv_shared_layers", default=0, least=0, most=b.layers - 1)
    widths = k.numbers("intermediate_size", b.layers) if isinstance(k.raw("intermediate_size"), list) else None
    widths = widths or [k.stated("intermediate_size")] * b.layers
    sizes = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    own_kv, none = (grouped(sizes, Details(qk_norm="head", own_kv_weights=kept)) for kept in (True, False))
    inputs, rank, own = k.count("altup_num_inputs"), k.count("laurel_rank"), k.count("hidden_size_per_layer_input")
    around = (
        Tensor("norms", b.hidden, copies=8),
        *linear("laurel.left", rank, b.hidden),
        *linear("laurel.right", b.hidden, rank),
        Tensor("altup.coefs", inputs * inputs * (1 + inputs)),
        *linear("altup.modality_router", inputs, b.hidden),
        *linear("per_layer_input_gate", own, b.hidden),
        *linear("per_layer_projection", b.hidden, own),
    )
    layers = [
        Layer(
            () if i >= b.layers - shared else (cached(sizes, span, window),),
            (*(none if i >= b.layers - shared else own_kv), *dense(b.hidden, widths[i]), *around),
        )
        for i, (span, window) in enumerate(types)
    ]
    projections = Tensor("altup_projections", b.hidden, b.hidden, copies=2 * (inputs - 1))
    return _closed(k, b, layers, projections, *_per_layer_tables(k, b))


SHAPED: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "mimo_v2_flash": _mimo_v2,
        "step3p5": _step,
        "step3p7": _step,
        "step3p7_text": _step,
        "minimax_m3": _minimax_m3,
        "minimax_m3_vl_text": _minimax_m3,
        "laguna": _laguna,
        "nemotron-nas": _nemotron_nas,
        "gemma4_text": _gemma4,
        "gemma3n_text": _gemma3n,
    }
)
