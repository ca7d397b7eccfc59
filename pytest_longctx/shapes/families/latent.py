"""Multi-head latent attention: DeepSeek V2 to V3.2, Kimi K2, GLM with sparse indexers, MiniCPM 3, LongCat."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from pytest_longctx.shapes import mixtures, windows
from pytest_longctx.shapes.attention import LatentSizes, indexer, latent, latent_cached
from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.decoder import ends, layer_count
from pytest_longctx.shapes.feedforward import Experts, dense, mixture
from pytest_longctx.shapes.model import Body, Layer
from pytest_longctx.shapes.tensors import Tensor, linear, norm


def latent_sizes(k: Keys, hidden: int, *, rotated: bool = True) -> LatentSizes:
    """
    Return the sizes of latent attention. The config's ``num_key_value_heads`` and ``head_dim`` have no meaning.

    If it is not *rotated*, its keys may have no values for positions.
    """
    for name in ("num_key_value_heads", "head_dim", "qk_head_dim"):
        k.raw(name)
    return LatentSizes(
        hidden=hidden,
        heads=k.stated("num_attention_heads"),
        query_rank=k.maybe("q_lora_rank", least=1),
        rank=k.stated("kv_lora_rank"),
        nope_dim=k.stated("qk_nope_head_dim"),
        rope_dim=k.stated("qk_rope_head_dim", least=1 if rotated else 0),
        value_dim=k.stated("v_head_dim"),
        bias=k.flag("attention_bias"),
    )


def indexed_layers(k: Keys, layers: int) -> list[bool]:
    """Return which latent-attention layers have their own indexer; GLM 5.2's other layers use the previous one."""
    kinds = k.per_layer("indexer_types", layers, extra=windows.draft_layers(k))
    pattern, freq = k.raw("index_topk_pattern"), k.count("index_topk_freq", default=1)
    offset = k.count("index_skip_topk_offset", default=2, least=0)
    if kinds is None and pattern is not None:
        letters = {"F": "full", "S": "shared"}
        kinds = [letters.get(str(each), str(each)) for each in pattern] if isinstance(pattern, str | list) else []
    if kinds is not None:
        if len(kinds) < layers or set(map(str, kinds)) - {"full", "shared"}:
            raise k.refuse("indexer_types", f"must be full or shared for each of {layers} layers; found {shown(kinds)}")
        return [kind == "full" for kind in kinds[:layers]]
    return [max(i - offset + 1, 0) % freq == 0 for i in range(layers)]


def latent_experts(k: Keys) -> Experts:
    """Return the mixture of experts of DeepSeek's latent-attention family."""
    count, used = mixtures.routed(k)
    width = k.stated("moe_intermediate_size")
    shared = (k.maybe("n_shared_experts", "num_shared_experts") or 0) * width
    return Experts(count, used, width, shared)


def _deepseek(k: Keys, *, sparse_index: bool = False, extra_norm: bool = False) -> Body:
    hidden, layers, vocabulary = k.stated("hidden_size"), layer_count(k), k.stated("vocab_size")
    sizes = latent_sizes(k, hidden)
    marks = mixtures.sparse_layers(k, layers) if k.maybe("n_routed_experts", "num_experts") else [False] * layers
    plain = () if all(marks) else dense(hidden, k.stated("intermediate_size"))
    mixed = mixture(hidden, latent_experts(k)) if any(marks) else ()
    attended = k.count("index_topk") if sparse_index else 0
    indexed = indexed_layers(k, layers) if sparse_index else [False] * layers
    index_dim = k.stated("index_head_dim") if sparse_index else 0
    search = indexer(hidden, sizes.query_rank or hidden, k.stated("index_n_heads"), index_dim) if sparse_index else ()
    attention = latent(sizes)
    norms = (Tensor("norms", hidden, copies=2),)
    stack = tuple(
        Layer(
            (latent_cached(sizes, index_dim if index else 0, attended),),
            (
                *attention,
                *(search if index else ()),
                *(mixed if mark else plain),
                *norms,
                *_after(hidden, mark and extra_norm),
            ),
        )
        for index, mark in zip(indexed, marks, strict=True)
    )
    outside = (*ends(k, hidden, vocabulary), *norm("norm", hidden))
    return Body(hidden, vocabulary, stack, outside, draft=_draft(k, stack, hidden))


def _after(hidden: int, wanted: bool) -> tuple[Tensor, ...]:  # noqa: FBT001  # one call, one meaning
    return norm("mlp.post_mlp_layernorm", hidden) if wanted else ()


def _draft(k: Keys, stack: tuple[Layer, ...], hidden: int) -> tuple[Tensor, ...]:
    """
    Return the weights of a latent-attention model's draft layers: each is like the last layer, with a projection of two
    hidden states.
    """
    count = windows.draft_layers(k)
    joined = (*linear("eh_proj", hidden, 2 * hidden), Tensor("norms", hidden, copies=3))
    return (*stack[-1].tensors, *joined) * min(count, 8)


def _dsv32(k: Keys) -> Body:
    kinds = k.sequence("layer_types")
    if kinds is not None and set(map(str, kinds)) - {"indexed_attention", "deepseek_sparse_attention"}:
        raise k.refuse("layer_types", "only sparse attention is supported for this model family")
    return _deepseek(k, sparse_index=True)


def _deepseek_v3(k: Keys) -> Body:
    """
    Return the layers of DeepSeek V3 with latent attention, and of V3.2 under the older name. The keys of an indexer
    distinguish them.
    """
    return _deepseek(k, sparse_index=k.has("index_topk"))


def _axk1(k: Keys) -> Body:
    return _deepseek(k, extra_norm=True)


def _minicpm3(k: Keys) -> Body:
    return _deepseek(k)


def _longcat(k: Keys) -> Body:
    """
    Return the layers of LongCat: each has two latent attentions, two dense layers and one mixture, in which some
    experts return their input.
    """
    hidden, layers, vocabulary = (
        k.stated("hidden_size"),
        k.stated("num_layers", "num_hidden_layers", most=4096),
        k.stated("vocab_size"),
    )
    sizes = latent_sizes(k, hidden)
    if k.word("attention_method", "MLA") != "MLA":
        raise k.refuse("attention_method", "only MLA is supported")
    idle = k.maybe("zero_expert_num") or 0
    if idle and k.word("zero_expert_type", "identity") != "identity":
        raise k.refuse("zero_expert_type", "only identity is supported")
    experts = Experts(k.stated("n_routed_experts"), k.stated("moe_topk"), k.stated("expert_ffn_hidden_size"), idle=idle)
    forward = dense(hidden, k.stated("ffn_hidden_size", "intermediate_size"), path="mlps")
    twice = (*latent(sizes), *forward, Tensor("norms", hidden, copies=2)) * 2
    cache = latent_cached(sizes)
    layer = Layer((cache, cache), (*twice, *mixture(hidden, experts)))
    return Body(hidden, vocabulary, (layer,) * layers, (*ends(k, hidden, vocabulary), *norm("norm", hidden)))


LATENT: Mapping[str, Callable[[Keys], Body]] = MappingProxyType(
    {
        "deepseek_v2": _deepseek,
        "deepseek_v3": _deepseek_v3,
        "kimi_k2": _deepseek_v3,
        "deepseek_v32": _dsv32,
        "glm_moe_dsa": _dsv32,
        "glm4_moe_lite": _deepseek,
        "youtu": _deepseek,
        "axk1": _axk1,
        "minicpm3": _minicpm3,
        "mistral4": _deepseek,
        "longcat_flash": _longcat,
    }
)
