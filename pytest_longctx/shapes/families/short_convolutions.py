"""Inkling: attention with positions as learned biases, and short convolutions of keys, values and both outputs."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pytest_longctx.shapes.attention import Details, Heads, cached, grouped
from pytest_longctx.shapes.caches import Part, State
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import Tensor, linear, norm

ONLY: Mapping[str, bool] = MappingProxyType(
    {"use_sconv": True, "shared_expert_sink": True, "q_bias": False, "o_bias": False}
)
"""Keys of which engines and class know one value."""


def _inkling(k: Keys) -> Body:
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    for name, wanted in ONLY.items():
        if k.flag(name, default=wanted) is not wanted:
            raise k.refuse(name, f"only {str(wanted).lower()} is supported")
    for name in ("unpadded_vocab_size", "shared_experts_size", "use_gate_bias", "use_global_scale", "gate_activation"):
        k.raw(name)  # of the vocabulary only logits are dropped; the others are some numbers in each layer
    local, sparse = _local(k, layers), _sparse(k, layers)
    whole, window = _heads(k, hidden), k.count("sliding_window_size", "sliding_window")
    windowed = _heads(k, hidden, "swa_") if any(local) else whole
    for name in ("swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim"):
        k.raw(name)
    rank, extent = k.count("d_rel", default=16), k.count("rel_extent", default=1024)
    kernel = k.count("sconv_kernel_size", "conv_kernel_size", default=4)
    forward = _forward(k, hidden)
    stack = []
    for slides, mixed in zip(local, sparse, strict=True):
        sizes = windowed if slides else whole
        width = sizes.kv_heads * sizes.key_dim
        kept = 2 * (width + hidden)
        state = State("paged_conv", Part((kernel - 1) * kept, shards=sizes.kv_heads), Part(0))
        own = (
            *grouped(sizes, Details(qk_norm="head")),
            *linear("self_attn.r_proj", sizes.heads * rank, hidden, shards=sizes.heads),
            Tensor("self_attn.rel_logits_proj", rank * (window if slides else extent)),
            Tensor("sconv", kept * kernel, shards=sizes.kv_heads),
            Tensor("norms", hidden, copies=2),
        )
        cache = cached(sizes, "sliding" if slides else "full", window if slides else 0)
        stack.append(Layer((cache, state), (*own, *forward[mixed])))
    outside = (*ends(k, hidden, vocabulary), *norm("norm", hidden))
    if k.flag("use_embed_norm", default=True):
        outside += norm("embed_norm", hidden)
    return Body(hidden, vocabulary, tuple(stack), outside)


def _heads(k: Keys, hidden: int, prefix: str = "") -> Heads:
    """
    Return the sizes of the full layers, or of the layers with a window. The file must state all, because engine and
    class have different defaults.
    """
    heads, groups = k.stated(f"{prefix}num_attention_heads"), k.stated(f"{prefix}num_key_value_heads")
    dim = k.stated(f"{prefix}head_dim")
    if heads % groups:
        raise k.refuse(
            f"{prefix}num_key_value_heads", f"{heads} heads cannot be divided evenly among {groups} KV heads"
        )
    if k.count(f"{prefix}v_head_dim", default=dim) != dim:
        raise k.refuse(f"{prefix}v_head_dim", f"the value differs from the {dim} values of a key")
    return Heads(hidden, heads, groups, dim, dim)


def _local(k: Keys, layers: int) -> list[bool]:
    """Return which layers have a window (True), from names or numbers."""
    kinds = k.per_layer("layer_types", layers) if k.has("layer_types") else None
    chosen = k.numbers("local_layer_ids")
    if kinds is None and chosen is None:
        raise k.refuse(
            "local_layer_ids", "this key is missing, and the engine and the model class treat that differently"
        )
    if kinds is None:
        return [i in set(chosen or ()) for i in range(layers)]
    for kind in kinds:
        if kind not in ("hybrid", "hybrid_sliding"):
            raise k.refuse("layer_types", f"unknown kind of layer: {shown(kind)}")
    return [kind == "hybrid_sliding" for kind in kinds]


def _sparse(k: Keys, layers: int) -> list[bool]:
    kinds = k.per_layer("mlp_layer_types", layers) if k.has("mlp_layer_types") else None
    first = k.count("dense_mlp_idx", default=0, least=0)
    if kinds is None:
        return [i >= first for i in range(layers)]
    if set(map(str, kinds)) - {"dense", "sparse"}:
        raise k.refuse("mlp_layer_types", f"must be dense or sparse; found {shown(kinds)}")
    return [kind == "sparse" for kind in kinds]


def _forward(k: Keys, hidden: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """
    Return the weights of a dense layer and of a mixture. Checkpoints state a dense width; the class states only that of
    the experts.
    """
    width = k.stated("intermediate_size")
    each = k.maybe("moe_intermediate_size", least=1)
    plain = k.maybe("dense_intermediate_size", least=1) or width
    if each is not None and width not in (plain, each):
        raise k.refuse(
            "moe_intermediate_size", f"the value is {each}, which does not explain intermediate_size = {width}"
        )
    shared, count = k.stated("n_shared_experts"), k.stated("n_routed_experts")
    experts = Experts(count, k.stated("num_experts_per_tok"), each or width, shared * (each or width))
    router = Tensor("mlp.gate.shared", shared, hidden)  # it weighs the shared experts too
    scale = Tensor("mlp.global_scale", 1)
    return (*dense(hidden, plain), scale), (*mixture(hidden, experts), router, scale)


CONVOLVED: Mapping[str, Callable[[Keys], Body]] = MappingProxyType({"inkling_text": _inkling})
