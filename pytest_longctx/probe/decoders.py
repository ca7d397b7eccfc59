"""Probe families of decoders with softmax attention in every layer: their configurations and tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pytest_longctx.probe import layout, softmax
from pytest_longctx.probe.codes import VOCABULARY, WIDTH
from pytest_longctx.probe.families import LONGEST, Family, Layer, shared_out
from pytest_longctx.probe.layout import HIDDEN
from pytest_longctx.probe.softmax import Heads, Latent
from pytest_longctx.probe.weights import MLP, Matrix

STILL_BASE = 1e30
"""Base of the rotary embeddings; see `softmax._slow_dimensions`."""

COMMON: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "max_position_embeddings": LONGEST,
    "rope_theta": STILL_BASE,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
}


def heads_of(config: Mapping[str, Any], rotary_share: float = 1.0) -> Heads:
    """Return the heads that *config* describes, of which a share of the dimensions has a rotary embedding."""
    dim = config["head_dim"]
    return Heads(config["num_attention_heads"], config["num_key_value_heads"], dim, int(dim * rotary_share))


def ends(hidden: int) -> dict[str, Matrix]:
    """Return the embedding, output and final norm of a softmax decoder's probe, by the names of most checkpoints."""
    return {
        "model.embed_tokens.weight": layout.embedding(hidden),
        "lm_head.weight": layout.output(hidden),
        "model.norm.weight": np.ones(hidden, np.float32),
    }


def empty_mlp(prefix: str, hidden: int, size: int = MLP) -> dict[str, Matrix]:
    """Return the MLP of a probe's decoder layer, which adds nothing."""
    shapes = {"gate": (size, hidden), "up": (size, hidden), "down": (hidden, size)}
    return {f"{prefix}{name}_proj.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def norms(prefix: str, hidden: int) -> dict[str, Matrix]:
    """Return both norms of a probe's decoder layer, which change no token."""
    names = ("input_layernorm", "post_attention_layernorm")
    return {f"{prefix}{name}.weight": np.ones(hidden, np.float32) for name in names}


Mixer = Callable[[Layer, Heads], Mapping[str, Matrix]]


def _build(family: Family, mixer: Mixer) -> dict[str, Matrix]:
    made = ends(HIDDEN)
    for layer in family.layers:
        prefix = f"model.layers.{layer.index}."
        made |= norms(prefix, HIDDEN) | empty_mlp(f"{prefix}mlp.", HIDDEN)
        made |= {f"{prefix}self_attn.{name}": each for name, each in mixer(layer, heads_of(family.config)).items()}
    return made


def named(projections: Mapping[str, Matrix]) -> dict[str, Matrix]:
    return {f"{name}_proj.weight": matrix for name, matrix in projections.items()}


def _plain(layer: Layer, heads: Heads) -> Mapping[str, Matrix]:
    return named(softmax.attention(heads, layer.keys, HIDDEN))


def _normed(layer: Layer, heads: Heads) -> Mapping[str, Matrix]:
    weights = {"q_norm": softmax.norm_gain(heads), "k_norm": 1.0}
    made = named(softmax.attention(heads, layer.keys, HIDDEN, normed=True))
    return made | {f"{name}.weight": np.full(heads.dim, gain, np.float32) for name, gain in weights.items()}


def llama(heads: int, kv_heads: int, head_dim: int) -> Family:
    """Return Llama's probe: four layers of full attention with heads of any size."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **COMMON,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_bias": False,
    }
    return Family(config, shared_out([(i, "full") for i in range(4)]), lambda family: _build(family, _plain))


def qwen3() -> Family:
    """Return Qwen3's probe, whose queries and keys are normed head by head."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **COMMON,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": 4,
    }
    return Family(config, shared_out([(i, "full") for i in range(4)]), lambda family: _build(family, _normed))


def mistral(window: int = 4096) -> Family:
    """Return Mistral's probe, with a window in every layer (7B v0.1: 4,096 tokens)."""
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        **COMMON,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "sliding_window": window,
    }
    layers = shared_out([(i, "sliding") for i in range(4)], window)
    return Family(config, layers, lambda family: _build(family, _plain))


def gpt_oss(window: int = 128) -> Family:
    """Return the probe of gpt-oss: layers with a window of 128 tokens alternate with full ones, and every head has a sink."""
    kinds: list[tuple[int, Any]] = [(0, "sliding"), (1, "full"), (2, "sliding"), (3, "full")]
    config = {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        **COMMON,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 128,
        "attention_bias": True,
        "initial_context_length": LONGEST,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 1.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "original_max_position_embeddings": LONGEST,
            "truncate": False,
        },
        "sliding_window": window,
        "layer_types": [f"{kind}_attention" for _, kind in kinds],
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "experts_per_token": 1,
        "swiglu_limit": 7.0,
    }
    return Family(config, shared_out(kinds, window), _gpt_oss)


def _gpt_oss(family: Family) -> dict[str, Matrix]:
    heads, made = heads_of(family.config), ends(HIDDEN)
    for layer in family.layers:
        prefix = f"model.layers.{layer.index}."
        projections, sinks = softmax.halved_by_sinks(heads, layer.keys, softmax.attention(heads, layer.keys, HIDDEN))
        made |= norms(prefix, HIDDEN)
        for name, matrix in projections.items():
            made[f"{prefix}self_attn.{name}_proj.weight"] = matrix
            made[f"{prefix}self_attn.{name}_proj.bias"] = np.zeros(len(matrix), np.float32)
        made[f"{prefix}self_attn.sinks"] = sinks
        made |= _empty_experts(f"{prefix}mlp.", family.config["num_local_experts"], family.config["intermediate_size"])
    return made


def _empty_experts(prefix: str, experts: int, size: int) -> dict[str, Matrix]:
    shapes = {
        "router.weight": (experts, HIDDEN),
        "router.bias": (experts,),
        "experts.gate_up_proj": (experts, HIDDEN, 2 * size),
        "experts.gate_up_proj_bias": (experts, 2 * size),
        "experts.down_proj": (experts, size, HIDDEN),
        "experts.down_proj_bias": (experts, HIDDEN),
    }
    return {f"{prefix}{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}


def deepseek(version: int) -> Family:
    """
    Return the probe of DeepSeek V2 or V3: latent attention with 512 dimensions, and 64 with a rotary embedding. V3 also
    has a latent query.
    """
    config = {
        "architectures": [f"DeepseekV{version}ForCausalLM"],
        "model_type": f"deepseek_v{version}",
        **COMMON,
        "rms_norm_eps": 1e-6,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "q_lora_rank": None if version == 2 else 256,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 2 * WIDTH,
        "n_routed_experts": 2,
        "first_k_dense_replace": 4,
        "moe_layer_freq": 1,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "rope_scaling": None,
        **(
            {"topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False}
            if version == 2
            else {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True}
        ),
    }
    return Family(config, shared_out([(i, "latent") for i in range(4)]), _build_latent)


def latent_of(config: Mapping[str, Any]) -> Latent:
    """Return the sizes of latent attention in *config*."""
    names = ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "q_lora_rank")
    return Latent(*(config[name] for name in names))


def _build_latent(family: Family) -> dict[str, Matrix]:
    sizes, made = latent_of(family.config), ends(HIDDEN)
    ranks = {"kv_a": sizes.kv_lora_rank} | ({"q_a": sizes.q_lora_rank} if sizes.q_lora_rank else {})
    for layer in family.layers:
        prefix = f"model.layers.{layer.index}."
        made |= norms(prefix, HIDDEN) | empty_mlp(f"{prefix}mlp.", HIDDEN)
        for name, matrix in softmax.latent_attention(sizes, layer.keys, HIDDEN).items():
            made[f"{prefix}self_attn.{name}.weight"] = matrix
        for name, rank in ranks.items():
            made[f"{prefix}self_attn.{name}_layernorm.weight"] = np.ones(rank, np.float32)
    return made
