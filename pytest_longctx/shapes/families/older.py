"""Older decoders, and decoders whose config.json has key names of their own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from pytest_longctx.shapes import mixtures
from pytest_longctx.shapes.attention import Details, Heads, cached, grouped
from pytest_longctx.shapes.config_keys import Keys
from pytest_longctx.shapes.decoder import Basics, Decoder, basics, ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import ANY, Tensor, norm


def _stack(hidden: int, vocabulary: int, layers: list[Layer], *outside: Tensor) -> Body:
    return Body(hidden, vocabulary, tuple(layers), outside)


def _falcon(k: Keys) -> Body:
    """Return the layers of older Falcon decoders: one KV head (7B), groups (40B, 180B), or as many as heads."""
    hidden, layers, heads = k.stated("hidden_size"), layer_count(k), k.stated("num_attention_heads", "n_head")
    new, multi = k.flag("new_decoder_architecture"), k.flag("multi_query", default=True)
    kv_heads = k.count("num_kv_heads", "n_head_kv", default=heads) if new else 1 if multi else heads
    for name in ("num_kv_heads", "n_head_kv", "multi_query"):
        k.raw(name)
    dim, bias, vocabulary = hidden // heads, k.flag("bias"), k.stated("vocab_size")
    parallel, alibi = k.flag("parallel_attn", default=True), k.flag("alibi")
    del alibi  # positions without a table
    counted = k.maybe("num_ln_in_parallel_attn") or (2 if new else 1)
    norms = counted if parallel else 2
    sizes = Heads(hidden, heads, kv_heads, dim, dim)
    width = k.maybe("ffn_hidden_size", least=1) or 4 * hidden
    tensors = (
        *grouped(sizes, Details(bias, bias)),
        *dense(hidden, width, gated=False, bias=bias),
        Tensor("norms", hidden, copies=2 * norms),
    )
    outside = (*ends(k, hidden, vocabulary, tied=True), *norm("ln_f", hidden, bias=True))
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layers, *outside)


def _opt(k: Keys) -> Body:
    hidden, heads, vocabulary = k.stated("hidden_size"), k.stated("num_attention_heads"), k.stated("vocab_size")
    sizes, bias = Heads(hidden, heads, heads, hidden // heads, hidden // heads), k.flag("enable_bias", default=True)
    inner, affine = (
        k.count("word_embed_proj_dim", default=hidden),
        k.flag("layer_norm_elementwise_affine", default=True),
    )
    if not k.flag("learned_embeddings", default=True):  # a key of Galactica's files, which the class does not have
        raise k.refuse("learned_embeddings", "the model class supports only learned positions")
    norms, before = 2 if affine else 0, k.flag("do_layer_norm_before", default=True)
    final = 2 * hidden if before and affine and not k.flag("_remove_final_layer_norm") else 0
    tensors = (
        *grouped(sizes, Details(bias, bias)),
        *dense(hidden, k.stated("ffn_dim"), gated=False, bias=bias),
        Tensor("norms", hidden, copies=2 * norms),
    )
    projections = 0 if inner == hidden else 2
    outside = (
        *ends(k, inner, vocabulary, tied=True),
        Tensor("embed_positions", k.stated("max_position_embeddings") + 2, hidden),
        *((Tensor("final_norm", final),) if final else ()),
        *((Tensor("project", inner, hidden, copies=projections),) if projections else ()),
    )
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layer_count(k), *outside)


def _bloom(k: Keys) -> Body:
    hidden, heads, vocabulary = (
        k.stated("hidden_size", "n_embed"),
        k.stated("n_head", "num_attention_heads"),
        k.stated("vocab_size"),
    )
    sizes = Heads(hidden, heads, heads, hidden // heads, hidden // heads)
    tensors = (
        *grouped(sizes, Details(qkv_bias=True, o_bias=True)),
        *dense(hidden, 4 * hidden, gated=False, bias=True),
        Tensor("norms", hidden, copies=4),
    )
    outside = (*ends(k, hidden, vocabulary, tied=True), Tensor("norms", hidden, copies=4))
    for name in (
        "offset_alibi",
        "slow_but_exact",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "n_embed",
        "num_attention_heads",
        "n_inner",
    ):
        k.raw(name)
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layer_count(k), *outside)


def _gpt_bigcode(k: Keys) -> Body:
    hidden, heads, vocabulary = (
        k.stated("n_embd", "hidden_size"),
        k.stated("n_head", "num_attention_heads"),
        k.stated("vocab_size"),
    )
    kv_heads = 1 if k.flag("multi_query", default=True) else heads
    sizes = Heads(hidden, heads, kv_heads, hidden // heads, hidden // heads)
    width = k.maybe("n_inner", least=1) or 4 * hidden
    tensors = (
        *grouped(sizes, Details(qkv_bias=True, o_bias=True)),
        *dense(hidden, width, gated=False, bias=True),
        Tensor("norms", hidden, copies=4),
    )
    table = Tensor("embed_positions", k.stated("n_positions", "max_position_embeddings"), hidden)
    outside = (*ends(k, hidden, vocabulary, tied=True), table, Tensor("norms", hidden, copies=2))
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layer_count(k), *outside)


def _chatglm(k: Keys) -> Body:
    """Return the layers of older GLM decoders with their own key names: ChatGLM 2 and 3, GLM-4 before transformers had it."""
    hidden, heads, layers = k.stated("hidden_size"), k.stated("num_attention_heads"), k.stated("num_layers", most=4096)
    multi = k.flag("multi_query_attention")
    kv_heads = k.stated("multi_query_group_num") if multi else heads
    dim, vocabulary = k.count("kv_channels", default=hidden // heads), k.stated("padded_vocab_size", "vocab_size")
    for name in (
        "multi_query_group_num",
        "vocab_size",
        "num_hidden_layers",
        "apply_query_key_layer_scaling",
        "apply_residual_connection_post_layernorm",
        "bias_dropout_fusion",
        "attention_softmax_in_fp32",
        "fp32_residual_connection",
        "rmsnorm",
        "original_rope",
        "post_layer_norm",
        "pre_seq_len",
        "prefix_projection",
        "quantization_bit",
        "interleaved_qkv",
        "tie_word_embeddings",
    ):
        k.raw(name)
    if k.maybe("quantization_bit") or k.raw("pre_seq_len"):
        raise k.refuse(
            "quantization_bit" if k.maybe("quantization_bit") else "pre_seq_len",
            "this setting is not supported for this model family",
        )
    every = k.flag("add_bias_linear")
    sizes = Heads(hidden, heads, kv_heads, dim, dim)
    tensors = (
        *grouped(sizes, Details(every or k.flag("add_qkv_bias"), every)),
        *dense(hidden, k.stated("ffn_hidden_size"), bias=every),
        Tensor("norms", hidden, copies=2),
    )
    both = (Tensor("embed_tokens", vocabulary, hidden, shards=ANY), Tensor("lm_head", vocabulary, hidden, shards=ANY))
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layers, *both, *norm("norm", hidden))


def _dbrx(k: Keys) -> Body:
    hidden, heads, vocabulary = k.stated("d_model"), k.stated("n_heads"), k.stated("vocab_size")
    attention, forward = k.table("attn_config"), k.table("ffn_config")
    if attention is None or forward is None:
        raise k.refuse("attn_config" if attention is None else "ffn_config", "this key is missing")
    sizes = Heads(hidden, heads, attention.count("kv_n_heads", default=heads), hidden // heads, hidden // heads)
    experts = Experts(forward.stated("moe_num_experts"), forward.stated("moe_top_k"), forward.stated("ffn_hidden_size"))
    tensors = (*grouped(sizes), *mixture(hidden, experts, "ffn"), Tensor("norms", hidden, copies=2))
    k.raw("n_layers")
    outside = (*ends(k, hidden, vocabulary), *norm("norm_f", hidden))
    return _stack(hidden, vocabulary, [Layer((cached(sizes),), tensors)] * layer_count(k), *outside)


def _qwen1(k: Keys) -> Body:
    """Return the layers of Qwen 1, an older decoder whose width covers both halves of the gate."""
    b = basics(k)
    sizes, width = Heads(b.hidden, b.heads, b.heads, b.head_dim, b.head_dim), k.stated("intermediate_size")
    for name in (
        "bf16",
        "fp16",
        "fp32",
        "no_bias",
        "use_cache_quantization",
        "use_cache_kernel",
        "kv_channels",
        "onnx_safe",
        "seq_length",
    ):
        k.raw(name)
    tensors = (
        *grouped(sizes, Details(qkv_bias=True)),
        *dense(b.hidden, width // 2),
        Tensor("norms", b.hidden, copies=2),
    )
    outside = (*ends(k, b.hidden, b.vocabulary), *norm("ln_f", b.hidden))
    return _stack(b.hidden, b.vocabulary, [Layer((cached(sizes),), tensors)] * b.layers, *outside)


def _hunyuan(k: Keys) -> Body:
    """
    Return the layers of the older Hunyuan-Large: with cross-layer attention, every second layer uses the keys and
    values of the previous one.
    """
    b = basics(k)
    share = k.count("cla_share_factor", default=1) if k.flag("use_cla") else 1
    k.raw("cla_share_factor")
    bias, norms = k.flag("attention_bias"), "head" if k.flag("use_qk_norm") else ""
    sizes = Heads(b.hidden, b.heads, b.kv_heads, b.head_dim, b.head_dim)
    own, borrowed = (grouped(sizes, Details(bias, bias, norms, own_kv_weights=kept)) for kept in (True, False))
    forward = _hunyuan_forward(k, b)
    k.raw("mlp_bias")
    layers = [
        Layer(
            (cached(sizes),) if i % share == 0 else (),
            (*(own if i % share == 0 else borrowed), *forward, Tensor("norms", b.hidden, copies=2)),
        )
        for i in range(b.layers)
    ]
    for name in (
        "use_mixed_mlp_moe",
        "moe_drop_tokens",
        "use_rotary_pos_emb",
        "norm_type",
        "position_embedding_xdrope",
        "add_classification_head",
        "class_num",
        "pool_type",
        "max_seq_len",
        "routed_scaling_factor",
        "group_limited_greedy",
    ):
        k.raw(name)
    return _stack(b.hidden, b.vocabulary, layers, *ends(k, b.hidden, b.vocabulary), *norm("norm", b.hidden))


def _hunyuan_forward(k: Keys, b: Basics) -> tuple[Tensor, ...]:
    width = k.stated("intermediate_size")
    if not k.has("num_experts") or k.count("num_experts") == 1:
        return dense(b.hidden, width)
    shared = (k.maybe("num_shared_expert") or 0) * width if k.flag("use_mixed_mlp_moe", default=True) else 0
    each = k.maybe("moe_intermediate_size", least=1) or width
    return mixture(b.hidden, Experts(*mixtures.routed(k), each, shared))


def _bailing(k: Keys) -> Body:
    """Return the layers of Ling and Ring, with their own key names: DeepSeek's mixtures with grouped-query attention."""
    bias, every = k.flag("use_qkv_bias"), k.flag("use_bias")
    for name in (
        "moe_router_enable_expert_bias",
        "norm_head",
        "norm_softmax",
        "moe_router_bias",
        "output_dropout",
        "using_split_qkv_in_self_attention",
        "multi_gate",
        "image_patch_token",
    ):
        k.raw(name)
    if not k.flag("moe_router_enable_shared_expert", default=True):
        raise k.refuse("moe_router_enable_shared_expert", "shared experts that are switched off are not supported")
    if k.raw("norm_head"):
        raise k.refuse("norm_head", "this setting is not supported for this model family")
    return Decoder(
        bias,
        every,
        qk_norm="use_qk_norm?head",
        experts=_bailing_experts,
    )(k)


def _bailing_experts(k: Keys, b: Basics) -> tuple[Experts, list[bool]]:
    """Return Ling's experts. If the file does not state how many are shared, the number depends on the class."""
    experts, sparse = mixtures.mixed(sparse=mixtures.sparse_layers)(k, b)
    each = k.maybe("moe_shared_expert_intermediate_size", least=1) or k.stated("moe_intermediate_size")
    return replace(experts, shared_width=k.stated("num_shared_experts", least=0) * each), sparse


def _exaone3(k: Keys) -> Body:
    """Return the layers of EXAONE 3, an older decoder: Llama with GPT-2's names of keys."""
    k.raw("layer_norm_epsilon")
    return Decoder()(k)


OLDER: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "falcon": _falcon,
        "opt": _opt,
        "bloom": _bloom,
        "gpt_bigcode": _gpt_bigcode,
        "chatglm": _chatglm,
        "dbrx": _dbrx,
        "qwen": _qwen1,
        "hunyuan": _hunyuan,
        "bailing_moe": _bailing,
        "bailing_moe_v2": _bailing,
        "exaone": _exaone3,
        "deepseek": Decoder(
            "attention_bias",
            "attention_bias",
            experts=mixtures.mixed(shared_count=("n_shared_experts",), sparse=mixtures.sparse_layers),
        ),
    }
)
