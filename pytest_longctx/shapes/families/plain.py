"""Dense decoders with one kind of block: the differences of each family from Llama."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.config_keys import Keys
from pytest_longctx.shapes.decoder import Basics, Decoder
from pytest_longctx.shapes.model import Body
from pytest_longctx.shapes.tensors import Tensor

LLAMA = Decoder(qkv_bias="attention_bias", o_bias="attention_bias", mlp_bias="mlp_bias")
QWEN3 = Decoder(qkv_bias="attention_bias", o_bias="attention_bias", qk_norm="head", attends=windows.qwen)


def _activation(_: Keys, __: Basics) -> tuple[Tensor, ...]:
    return (Tensor("mlp.act_fn", 2),)


def _bitnet(k: Keys, b: Basics) -> tuple[Tensor, ...]:
    return (Tensor("self_attn.attn_sub_norm", b.hidden), Tensor("mlp.ffn_sub_norm", k.stated("intermediate_size")))


def _lambdas(_: Keys, b: Basics) -> tuple[Tensor, ...]:
    return (Tensor("self_attn.lambdas", b.head_dim, copies=4),)


def _stablelm(k: Keys) -> Body:
    parallel, per_head = k.flag("use_parallel_residual"), k.flag("qk_layernorm")
    if per_head:
        raise k.refuse("qk_layernorm", "a norm for each head is not supported")
    if k.maybe("head_dim") not in (None, k.stated("hidden_size") // k.stated("num_attention_heads")):
        raise k.refuse("head_dim", "must be the hidden size divided by the number of heads, as in the model class")
    return Decoder(qkv_bias="use_qkv_bias", norms=1 if parallel else 2, norm_bias=True)(k)


def _cohere(k: Keys) -> Body:
    if not k.flag("use_parallel_block", default=True) or not k.flag("use_gated_activation", default=True):
        raise k.refuse("use_parallel_block", "only parallel blocks with a gated activation are supported")
    return Decoder(qkv_bias="attention_bias", o_bias="attention_bias", norms=1, qk_norm="use_qk_norm?wide", tied=True)(
        k
    )


def _cohere2(k: Keys) -> Body:
    if k.word("order_of_interleaved_layers", "local_attn_first") != "local_attn_first":
        raise k.refuse("order_of_interleaved_layers", "only local_attn_first is supported")
    if not k.flag("use_parallel_block", default=True) or not k.flag("use_gated_activation", default=True):
        raise k.refuse("use_parallel_block", "only parallel blocks with a gated activation are supported")
    rule = windows.every("sliding_window_pattern", 4)
    return Decoder("attention_bias", "attention_bias", norms=1, tied=True, qk_norm="use_qk_norm?wide", attends=rule)(k)


def _phi3(k: Keys) -> Body:
    if k.count("full_attn_mod", default=1) != 1:
        raise k.refuse("full_attn_mod", "alternating layers are not supported for this model family")
    return Decoder(attends=windows.all_slide)(k)


def _phi4mm(k: Keys) -> Body:
    """Return the layers of Phi-4 multimodal: Phi-3 with encoders; engines load its adapters separately, on request."""
    for key in ("embd_layer", "audio_processor", "img_processor", "speech_lora", "vision_lora"):
        k.raw(key)
    return _phi3(k)


def _phi3_v(k: Keys) -> Body:
    """
    Return the layers of Phi-3 Vision and Phi-3.5 Vision: Phi-3 with a vision encoder whose sizes are fixed in the model
    class.
    """
    for key in ("embd_layer", "img_processor"):
        k.raw(key)
    return _phi3(k)


def _gpt2(k: Keys) -> Body:
    biased = Decoder(qkv_bias=True, o_bias=True, mlp_bias=True, gated=False, norm_bias=True, tied=True)
    return replace(biased, position_rows=0, four_times=True)(k)


def _nemotron(k: Keys) -> Body:
    return Decoder("attention_bias", "attention_bias", "mlp_bias", gated=False, norm_bias=True)(k)


def _phi(k: Keys) -> Body:
    if k.flag("qk_layernorm"):
        raise k.refuse("qk_layernorm", "norms of queries and keys are not supported")
    both = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
    return Decoder(**both, gated=False, norms=1, norm_bias=True, head_bias=True)(k)  # type: ignore[arg-type]  # all three are flags


def _minicpm(k: Keys) -> Body:
    """Return the layers of MiniCPM 1 and 2: dense, or with a mixture of experts in each layer."""
    experts = mixtures.mixed(width=("intermediate_size",)) if k.maybe("num_experts") else None
    k.raw("num_experts_per_tok")
    return Decoder("attention_bias", "attention_bias", tied=True, experts=experts)(k)


def _gpt_neox(k: Keys) -> Body:
    """Return the layers of GPT-NeoX, with as many KV heads as heads, because its class knows no other number."""
    if (k.maybe("num_key_value_heads") or k.stated("num_attention_heads")) != k.stated("num_attention_heads"):
        raise k.refuse("num_key_value_heads", "must equal the number of attention heads in the model class")
    return Decoder("attention_bias", "attention_bias", mlp_bias=True, gated=False, norm_bias=True)(k)


def _qwen2(k: Keys) -> Body:
    """Return the layers of Qwen 2 and 2.5: queries, keys and values have a bias, whatever ``attention_bias`` says."""
    k.raw("attention_bias")
    return Decoder(qkv_bias=True, attends=windows.qwen)(k)


def _ernie(k: Keys) -> Body:
    """Return the layers of ERNIE 4.5, whose files keep a ratio of compression that the class does not have."""
    if k.raw("compression_ratio") not in (None, 1):
        raise k.refuse("compression_ratio", "the model class does not support compression")
    return Decoder("use_bias", "use_bias", "use_bias", tied=True)(k)


def _hunyuan_dense(k: Keys) -> Body:
    """Return the layers of Hunyuan's dense models, whose files keep keys of its mixtures, encoders and classifiers."""
    for name in ("anyres_pooling_size", "anyres_vit_max_image_size", "anyres_vit_two_views", "dense_list", "class_num"):
        k.raw(name)
    for name in ("add_classification_head", "position_embedding_xdrope", "cla_share_factor", "pool_type", "norm_type"):
        k.raw(name)
    if k.flag("use_cla") or k.count("num_experts", default=1) != 1:
        raise k.refuse(
            "use_cla" if k.flag("use_cla") else "num_experts", "this setting is not supported for this model family"
        )
    k.count("vocab_size", "org_vocab_size", default=1)
    return Decoder("attention_bias", "attention_bias", qk_norm="head")(k)


def _solar(k: Keys) -> Body:
    """Return the layers of Solar Pro: Llama with connections that skip layers and have no weights."""
    for name in ("bskcn_1", "bskcn_2", "bskcn_3", "bskcn_4", "bskcn_tv"):
        k.raw(name)
    return replace(LLAMA, attends=windows.all_slide)(k)


def _telechat(k: Keys) -> Body:
    """
    Return the layers of TeleChat 2: Llama with GPT-2's names of keys, and a bias behind attention and feed-forward
    layers.
    """
    for name in ("offset_alibi", "training_seqlen", "logn", "n_inner", "skip_bias_add_qkv", "slow_but_exact"):
        k.raw(name)
    if k.flag("embed_layernorm"):
        raise k.refuse("embed_layernorm", "a norm of embeddings is not supported for this model family")
    whole = k.count("hidden_size") // k.count("n_head", "num_attention_heads")
    if k.count("hidden_size_per_attention_head", default=whole) != whole:
        raise k.refuse(
            "hidden_size_per_attention_head",
            "must be the hidden size divided by the number of heads, as in the model class",
        )
    return Decoder(additions=_biases_behind)(k)


def _biases_behind(_: Keys, b: Basics) -> tuple[Tensor, ...]:
    return (Tensor("self_attn.o_proj.bias", b.hidden), Tensor("mlp.down_proj.bias", b.hidden))


def _glm4v(k: Keys) -> Body:
    """Read GLM-4.1V and 4.6V: queries, keys and values have a bias, whatever ``attention_bias`` says."""
    k.raw("attention_bias")
    return Decoder(qkv_bias=True, norms=4)(k)


_EXAONE4 = Decoder(qk_norm="head", attends=windows.every("sliding_window_pattern", 4))

PLAIN: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "llama": LLAMA,
        "aquila": LLAMA,
        "mistral": Decoder(attends=windows.all_slide),
        "ministral": Decoder(attends=windows.all_slide),
        "ministral3": Decoder(attends=windows.all_slide),
        "cwm": Decoder("attention_bias", "attention_bias", "mlp_bias", attends=windows.first_of(4)),
        "seed_oss": Decoder("attention_bias", "attention_out_bias", "mlp_bias"),
        "ernie4_5": _ernie,
        "paddleocr_vl_text": Decoder("use_bias", "use_bias", "use_bias"),
        "telechat": _telechat,
        "solar": _solar,
        "iquestcoder": LLAMA,
        "PanguEmbedded": Decoder("bias", "bias"),
        "smollm3": Decoder("attention_bias", "attention_bias", "mlp_bias", attends=windows.qwen),
        "granite": LLAMA,
        "granite_swa": Decoder("attention_bias", "attention_bias", "mlp_bias", sinks=True, attends=windows.everything),
        "helium": Decoder("attention_bias", mlp_bias="mlp_bias"),
        "hyperclovax": lambda k: Decoder(
            "attention_bias", "attention_bias", "mlp_bias", norms=4 if k.flag("use_post_norm") else 2
        )(k),
        "olmo": Decoder("attention_bias", "attention_bias", norms=0, final_norm=False),
        "olmo2": Decoder("attention_bias", "attention_bias", qk_norm="wide"),
        "olmo3": Decoder(
            "attention_bias", "attention_bias", qk_norm="wide", attends=windows.every("layer_interval", 4)
        ),
        "exaone4": _EXAONE4,
        "exaone4_5_text": _EXAONE4,
        "apertus": Decoder(
            "attention_bias", "attention_bias", "mlp_bias", qk_norm="head", gated=False, additions=_activation
        ),
        "arcee": Decoder("attention_bias", "attention_bias", "mlp_bias", gated=False),
        "nemotron": _nemotron,
        "phi": _phi,
        "phi3": _phi3,
        "phi4mm": _phi4mm,
        "phi3_v": _phi3_v,
        "qwen2": _qwen2,
        "qwen2_vl_text": _qwen2,
        "qwen2_5_vl_text": _qwen2,
        "qwen2_5_omni_text": _qwen2,
        "qwen3": QWEN3,
        "qwen3_vl_text": QWEN3,
        "mimo": Decoder(qkv_bias="attention_bias", attends=windows.qwen),
        "stablelm": _stablelm,
        "starcoder2": Decoder(
            "use_bias", "use_bias", "use_bias", gated=False, norm_bias=True, tied=True, attends=windows.all_slide
        ),
        "gemma": Decoder("attention_bias", "attention_bias", tied=True),
        "gemma2": Decoder(
            "attention_bias", "attention_bias", norms=4, tied=True, attends=windows.every("layer_interval", 2)
        ),
        "gemma3_text": Decoder(
            "attention_bias",
            "attention_bias",
            norms=4,
            qk_norm="head",
            tied=True,
            partial=True,
            attends=windows.every("sliding_window_pattern", 6),
        ),
        "vaultgemma": Decoder(
            "attention_bias", "attention_bias", tied=True, attends=windows.every("layer_interval", 2)
        ),
        "cohere": _cohere,
        "cohere2": _cohere2,
        "glm": Decoder(qkv_bias="attention_bias"),
        "glm4": Decoder(qkv_bias="attention_bias", norms=4),
        "glm4v_text": _glm4v,
        "hunyuan_v1_dense": _hunyuan_dense,
        "jais2": Decoder(qkv_bias=True, o_bias=True, mlp_bias=True, gated=False, norm_bias=True),
        "nanochat": Decoder("attention_bias", "attention_bias", gated=False, norms=0, final_norm=False),
        "bitnet": Decoder("attention_bias", "attention_bias", additions=_bitnet),
        "diffllama": Decoder("attention_bias", "attention_bias", additions=_lambdas),
        "internlm2": Decoder("bias", "bias"),
        "internlm3": Decoder("qkv_bias", "bias", "bias"),
        "minicpm": _minicpm,
        "baichuan": Decoder(),
        "orion": Decoder("attention_bias", "attention_bias", norm_bias=True),
        "gpt2": _gpt2,
        "gpt_neox": _gpt_neox,
        "gptj": Decoder(mlp_bias=True, gated=False, norms=1, norm_bias=True, head_bias=True, four_times=True),
        "codegen": Decoder(mlp_bias=True, gated=False, norms=1, norm_bias=True, head_bias=True, four_times=True),
    }
)
