"""Decoders with one kind of block, in which some layers are mixtures of experts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.config_keys import Keys
from pytest_longctx.shapes.decoder import Basics, Decoder
from pytest_longctx.shapes.feedforward import Experts, mixture
from pytest_longctx.shapes.mixtures import mixed
from pytest_longctx.shapes.model import Body

QWEN3_MOE = Decoder(
    "attention_bias", "attention_bias", qk_norm="head", attends=windows.qwen, experts=mixed(sparse=mixtures.qwen_sparse)
)
GRANITE_PATH = "block_sparse_moe"


def _llama4(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
    marks = mixtures.llama4_sparse(k, b.layers)
    count, used = mixtures.routed(k)
    width = k.stated("intermediate_size")
    return Experts(count, used, width, shared_width=width), marks


def _ernie(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
    made = mixed(
        shared_count=("moe_num_shared_experts",),
        sparse=mixtures.ernie_sparse,
        correction=k.flag("moe_use_aux_free", default=True),
    )
    return made(k, b)


def _ernie_vl(k: Keys) -> Body:
    """
    Return the layers of ERNIE 4.5 VL: each mixture has as many experts for images as for text, of another width. Shared
    experts have the width of the experts for text.
    """
    for key in ("rope_3d", "freq_allocation", "pixel_hidden_size", "spatial_conv_size", "temporal_conv_size"):
        k.raw(key)  # of the rotation, and of the encoder behind vision_config
    k.raw("moe_use_aux_free")  # the correction of the routing is always there
    counts, widths = _pair(k, "moe_num_experts"), _pair(k, "moe_intermediate_size") or (1536, 512)
    count, of_images = counts or (k.count("moe_num_experts"),) * 2
    if count != of_images:
        raise k.refuse(
            "moe_num_experts", f"{count} experts for text in addition to {of_images} for images are not supported"
        )
    used, shared = k.count("moe_k", "num_experts_per_tok"), k.count("moe_num_shared_experts", default=0, least=0)
    made = [Experts(count, used, width, correction=True) for width in widths]
    made[0] = replace(made[0], shared_width=shared * widths[0])

    def experts(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
        return made[0], _ernie_vl_sparse(k, b.layers)

    body = Decoder("use_bias", "use_bias", "use_bias", tied=True, experts=experts)(k)
    other = mixture(body.hidden, made[1], "mlp.vision")
    return replace(
        body,
        layers=tuple(
            replace(layer, tensors=(*layer.tensors, *other)) if mixes else layer
            for layer, mixes in zip(body.layers, _ernie_vl_sparse(k, len(body.layers)), strict=True)
        ),
    )


def _pair(k: Keys, key: str) -> tuple[int, int] | None:
    """Return the two numbers of a *key*, for text and for images; None if the key has no list."""
    if not isinstance(k.raw(key), list):
        return None
    numbers = k.numbers(key) or []
    if len(numbers) != 2 or not all(numbers):
        raise k.refuse(key, "must be one number for text and one for images")
    return numbers[0], numbers[1]


def _ernie_vl_sparse(k: Keys, layers: int) -> list[bool]:
    """
    Return the mixture layers of ERNIE 4.5 VL: by names, or from a first to a last layer, both the same for text and
    images.
    """
    if k.has("mlp_layer_types"):
        return mixtures.sparse_layers(k, layers)
    first = k.numbers("moe_layer_start_index") or [1, 1]
    last = [min(each, layers - 1) for each in k.numbers("moe_layer_end_index") or [layers - 1] * 2]
    for key, found in (("moe_layer_start_index", first), ("moe_layer_end_index", last)):
        if len(set(found)) != 1:
            raise k.refuse(key, "layers with experts of only one kind are not supported for this model family")
    step = k.count("moe_layer_interval", default=1)
    return [(i + 1) % step == 0 and first[0] <= i <= last[0] for i in range(layers)]


def _hunyuan(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
    """Return the mixture of experts of Hunyuan V1, whose shared experts have the model's width."""
    count, used = mixtures.routed(k)
    sizes = [k.raw("moe_intermediate_size"), k.raw("num_shared_expert")]
    for name, value in zip(("moe_intermediate_size", "num_shared_expert"), sizes, strict=True):
        if isinstance(value, list) and len(set(map(str, value))) > 1:
            raise k.refuse(name, "the layers have different values")
    width = _same(k, "moe_intermediate_size") or k.stated("intermediate_size")
    shared = _same(k, "num_shared_expert") or 1
    return Experts(count, used, width, shared_width=shared * k.stated("intermediate_size")), [True] * b.layers


def _same(k: Keys, key: str) -> int | None:
    """
    Return the number of a mixture of experts, or the one number in a list with an entry for each layer; None if
    missing.
    """
    if isinstance(k.raw(key), list):
        numbers = k.numbers(key) or []
        return numbers[0] if numbers else None
    return k.maybe(key)


def _hunyuan_moe(k: Keys) -> Body:
    if k.flag("use_cla"):
        raise k.refuse("use_cla", "layers that share keys and values are not supported for this model family")
    norm, dim = "head" if k.flag("use_qk_norm", default=True) else "", k.maybe("attention_head_dim")
    for key in ("use_mixed_mlp_moe", "cla_share_factor", "moe_layer_num_skipped", "org_vocab_size"):
        k.raw(key)
    if dim is not None and dim != k.maybe("head_dim", "attention_head_dim"):
        raise k.refuse("attention_head_dim", "the value differs from head_dim")
    if k.maybe("moe_layer_num_skipped"):
        raise k.refuse("moe_layer_num_skipped", "dense layers are not supported for this model family")
    return Decoder("attention_bias", "attention_bias", qk_norm=norm, experts=_hunyuan)(k)


def _granite(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
    return mixed(shared="shared_intermediate_size", width=("intermediate_size",))(k, b)


def _glm4_moe(k: Keys) -> Body:
    return Decoder(
        "attention_bias",
        qk_norm="use_qk_norm?head",
        experts=mixed(shared_count=("n_shared_experts",), sparse=mixtures.sparse_layers),
    )(k)


def _afmoe(k: Keys) -> Body:
    return Decoder(
        "attention_bias",
        norms=4,
        qk_norm="head",
        gate="own",
        attends=windows.every("global_attn_every_n_layers", 4),
        experts=mixed(shared_count=("num_shared_experts",), sparse=mixtures.sparse_layers, correction=True),
    )(k)


def _minimax_m2(k: Keys) -> Body:
    norm = {"per_layer": "wide", "per_head": "head"}.get(k.word("qk_norm_type") or "per_layer", "wide")
    if set(k.sequence("attn_type_list") or [1]) != {1}:
        raise k.refuse("attn_type_list", "layers that are not full attention are not supported for this model family")
    if k.maybe("shared_intermediate_size"):
        raise k.refuse("shared_intermediate_size", "shared experts are not supported for this model family")
    for key in ("use_mtp", "mtp_transformer_layers", "use_routing_bias", "shared_moe_mode"):
        k.raw(key)
    experts = mixed(width=("intermediate_size",))
    return Decoder(qk_norm=norm if k.flag("use_qk_norm", default=True) else "", experts=experts)(k)


def _phimoe(k: Keys) -> Body:
    return Decoder(
        "attention_bias",
        "attention_bias",
        norm_bias=True,
        head_bias=k.flag("lm_head_bias"),
        attends=windows.all_slide,
        experts=mixed(width=("intermediate_size",)),
    )(k)


def _exaone_moe(k: Keys) -> Body:
    """K-EXAONE: dense layers are listed, or counted at the start; some of its files write the number twice."""
    if k.has("first_last_k_dense_replace") and k.raw("first_last_k_dense_replace") != k.raw("first_k_dense_replace"):
        raise k.refuse("first_last_k_dense_replace", "the value differs from first_k_dense_replace")
    return Decoder(
        qk_norm="head",
        attends=windows.every("sliding_window_pattern", 4),
        experts=mixed(
            shared_count=("num_shared_experts",),
            sparse=mixtures.listed_sparse("is_moe_layer"),
            width=("moe_intermediate_size",),
        ),
    )(k)


MIXED: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "mixtral": Decoder(attends=windows.all_slide, experts=mixed(width=("intermediate_size",))),
        "phimoe": _phimoe,
        "qwen2_moe": Decoder(
            qkv_bias=True,
            attends=windows.qwen,
            experts=mixed(shared="shared_expert_intermediate_size", shared_gate=True, sparse=mixtures.qwen_sparse),
        ),
        "qwen3_moe": QWEN3_MOE,
        "qwen3_vl_moe_text": QWEN3_MOE,
        "qwen3_omni_moe_text": QWEN3_MOE,
        "mellum": Decoder(
            "attention_bias",
            "attention_bias",
            qk_norm="head",
            attends=windows.qwen,
            experts=mixed(sparse=mixtures.listed_or(mixtures.qwen_sparse)),
        ),
        "olmoe": Decoder(
            "attention_bias", "attention_bias", qk_norm="wide", experts=mixed(width=("intermediate_size",))
        ),
        "flex_olmo": Decoder(
            "attention_bias", "attention_bias", qk_norm="wide", experts=mixed(width=("intermediate_size",))
        ),
        "gpt_oss": Decoder(
            qkv_bias=True,
            o_bias=True,
            sinks=True,
            attends=windows.every("layer_interval", 2),
            experts=mixed(width=("intermediate_size",), bias=True, router_bias=True),
        ),
        "granitemoe": Decoder(
            "attention_bias", "attention_bias", experts=mixed(width=("intermediate_size",)), expert_path=GRANITE_PATH
        ),
        "granitemoeshared": Decoder("attention_bias", "attention_bias", experts=_granite, expert_path=GRANITE_PATH),
        "llama4_text": Decoder(
            "attention_bias",
            "attention_bias",
            attends=windows.llama4,
            experts=_llama4,
            expert_path="feed_forward",
            width=("intermediate_size_mlp",),
        ),
        "glm4_moe": _glm4_moe,
        "glm4v_moe_text": _glm4_moe,
        "ernie4_5_moe": Decoder("use_bias", "use_bias", "use_bias", tied=True, experts=_ernie),
        "ernie4_5_vl_moe_text": _ernie_vl,
        "hunyuan_v1_moe": _hunyuan_moe,
        "minimax_m2": _minimax_m2,
        "dots1": Decoder(
            "attention_bias",
            "attention_bias",
            qk_norm="head",
            attends=windows.qwen,
            experts=mixed(shared_count=("n_shared_experts",), sparse=mixtures.sparse_layers),
        ),
        "solar_open": Decoder(
            "attention_bias",
            "attention_bias",
            qk_norm="use_qk_norm?head",
            experts=mixed(
                shared_count=("n_shared_experts",), sparse=mixtures.sparse_layers, width=("moe_intermediate_size",)
            ),
        ),
        "hy_v3": Decoder(
            "attention_bias",
            "attention_bias",
            qk_norm="head",
            experts=mixed(shared_count=("num_shared_experts", "n_shared_experts"), sparse=mixtures.told_sparse),
        ),
        "exaone_moe": _exaone_moe,
        "afmoe": _afmoe,
        "cohere2_moe": Decoder(
            "attention_bias",
            "attention_bias",
            norms=1,
            tied=True,
            attends=windows.every("sliding_window_pattern", 4),
            experts=mixed(width=("intermediate_size",), sparse=mixtures.sparse_layers),
        ),
    }
)
