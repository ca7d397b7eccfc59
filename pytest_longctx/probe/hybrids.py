"""Probe families with recurrent layers: Qwen3-Next, Qwen3.5, Nemotron-H and Mamba2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_longctx.probe import layout, recurrent, softmax
from pytest_longctx.probe.decoders import COMMON, empty_mlp, ends, heads_of
from pytest_longctx.probe.families import Family, Layer, shared_out
from pytest_longctx.probe.layout import HIDDEN
from pytest_longctx.probe.recurrent import Delta, Scan
from pytest_longctx.probe.weights import MLP, Matrix

PURE_HIDDEN = 512
"""Hidden size of the Mamba2 probe. Twice as many make 16 heads of 64, a power of two."""

NEMOTRON_H = "M-M-M-*-"
"""Layers of the Nemotron-H probe: Mamba2, MLP and attention."""

_DELTA: Mapping[str, int] = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

_ROTARY_SHARE = 0.25


def _qwen(own: Mapping[str, Any]) -> Family:
    kinds: list[tuple[int, Any]] = [(0, "delta"), (1, "delta"), (2, "delta"), (3, "full")]
    config = {
        **COMMON,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rms_norm_eps": 1e-6,
        "full_attention_interval": 4,
        "layer_types": [*["linear_attention"] * 3, "full_attention"],
        **_DELTA,
        **own,
    }
    return Family(config, shared_out(kinds), _build_qwen)


def qwen3_next() -> Family:
    """Return Qwen3-Next's probe: three layers of Gated DeltaNet, then one layer of gated attention."""
    own = {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "partial_rotary_factor": _ROTARY_SHARE,
        "rope_scaling": None,
        "decoder_sparse_step": 1,
        # vLLM refuses this class without a single layer of experts.
        "mlp_only_layers": [0, 1, 2],
        "moe_intermediate_size": MLP,
        "shared_expert_intermediate_size": MLP,
        "num_experts_per_tok": 1,
        "num_experts": 2,
        "norm_topk_prob": True,
    }
    return _qwen(own)


def qwen3_5() -> Family:
    """Return the probe of Qwen3.5, dense: like Qwen3-Next, but each input of Gated DeltaNet has its own projection."""
    rotary = {"rope_type": "default", "rope_theta": COMMON["rope_theta"], "partial_rotary_factor": _ROTARY_SHARE}
    own = {
        "architectures": ["Qwen3_5ForCausalLM"],
        "model_type": "qwen3_5_text",
        "rope_parameters": rotary,
        "attn_output_gate": True,
    }
    return _qwen(own)


def delta_net_of(config: Mapping[str, Any]) -> Delta:
    """Return the sizes of Gated DeltaNet in *config*."""
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim")
    return Delta(*(config[f"linear_{name}"] for name in names))


def _build_qwen(family: Family) -> dict[str, Matrix]:
    """Return the tensors of Qwen's hybrid. Its norms multiply by 1 + weight, except the norm after Gated DeltaNet."""
    heads = heads_of(family.config, _ROTARY_SHARE)
    fused = family.config["model_type"] == "qwen3_next"
    made = ends(HIDDEN) | {"model.norm.weight": np.zeros(HIDDEN, np.float32)}
    for layer in family.layers:
        prefix = f"model.layers.{layer.index}."
        dense = not fused or layer.index in family.config["mlp_only_layers"]
        made |= empty_mlp(f"{prefix}mlp.", HIDDEN) if dense else _empty_experts(prefix, family.config["num_experts"])
        for name in ("input_layernorm", "post_attention_layernorm"):
            made[f"{prefix}{name}.weight"] = np.zeros(HIDDEN, np.float32)
        if layer.kind == "full":
            projections = softmax.attention(heads, layer.keys, HIDDEN, normed=True)
            projections["q"] = softmax.gated(projections["q"], heads)
            made |= {f"{prefix}self_attn.{name}_proj.weight": matrix for name, matrix in projections.items()}
            made[f"{prefix}self_attn.q_norm.weight"] = np.full(heads.dim, softmax.norm_gain(heads) - 1, np.float32)
            made[f"{prefix}self_attn.k_norm.weight"] = np.zeros(heads.dim, np.float32)
        else:
            made |= _named_delta(f"{prefix}linear_attn.", family.config, layer, fused=fused)
    return made


def _empty_experts(prefix: str, experts: int) -> dict[str, Matrix]:
    """Return the experts of Qwen3-Next's probe, which add nothing."""
    made = {
        f"{prefix}mlp.gate.weight": np.zeros((experts, HIDDEN), np.float32),
        f"{prefix}mlp.shared_expert_gate.weight": np.zeros((1, HIDDEN), np.float32),
    }
    for name in ("shared_expert", *(f"experts.{number}" for number in range(experts))):
        made |= empty_mlp(f"{prefix}mlp.{name}.", HIDDEN)
    return made


def _named_delta(prefix: str, config: Mapping[str, Any], layer: Layer, *, fused: bool) -> dict[str, Matrix]:
    """Return Gated DeltaNet under the names of Qwen3-Next (*fused*, head by head) or of Qwen3.5."""
    sizes = delta_net_of(config)
    parts = recurrent.gated_delta(sizes, layer.keys, layer.lag, HIDDEN)
    direct = ("A_log", "dt_bias", "conv1d.weight", "norm.weight", "out_proj.weight")
    made = {
        f"{prefix}{name}": parts[part]
        for name, part in zip(direct, ("A_log", "dt_bias", "conv", "norm", "out"), strict=True)
    }
    if fused:
        groups = [parts[name].reshape(sizes.key_heads, -1, HIDDEN) for name in ("q", "k", "v", "z")]
        rates = [parts[name].reshape(sizes.key_heads, -1, HIDDEN) for name in ("b", "a")]
        made[f"{prefix}in_proj_qkvz.weight"] = np.concatenate(groups, axis=1).reshape(-1, HIDDEN)
        made[f"{prefix}in_proj_ba.weight"] = np.concatenate(rates, axis=1).reshape(-1, HIDDEN)
    else:
        flat = {name: parts[name].reshape(-1, HIDDEN) for name in ("q", "k", "v", "z", "b", "a")}
        made[f"{prefix}in_proj_qkv.weight"] = np.concatenate([flat[name] for name in ("q", "k", "v")])
        made |= {f"{prefix}in_proj_{name}.weight": flat[name] for name in ("z", "b", "a")}
    return made


def nemotron_h() -> Family:
    """Return Nemotron-H's probe: Mamba2 layers, then one layer of attention without positions."""
    config = {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        **COMMON,
        "num_hidden_layers": len(NEMOTRON_H),
        "hybrid_override_pattern": NEMOTRON_H,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "attention_head_dim": 64,
        "mlp_hidden_act": "relu2",
        "mamba_hidden_act": "silu",
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "ssm_state_size": 128,
        "n_groups": 2,
        "conv_kernel": 4,
        "chunk_size": 128,
        "expand": 2,
        "use_conv_bias": True,
        "use_bias": False,
        "mlp_bias": False,
        "mamba_proj_bias": False,
        "layer_norm_epsilon": 1e-5,
        "norm_eps": 1e-5,
        "time_step_floor": 0.0001,
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "time_step_limit": [0.0, 1e9],
        "residual_in_fp32": False,
        "num_logits_to_keep": 1,
        "sliding_window": None,
    }
    kinds: list[tuple[int, Any]] = [
        (i, "mamba2" if letter == "M" else "full") for i, letter in enumerate(NEMOTRON_H) if letter != "-"
    ]
    return Family(config, shared_out(kinds), _build_nemotron_h)


def scan_of(config: Mapping[str, Any]) -> Scan:
    """Return the sizes of Mamba2 in *config*."""
    own = ("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups")
    names = own if config["model_type"] == "nemotron_h" else ("num_heads", "head_dim", "state_size", "n_groups")
    return Scan(*(config[name] for name in names))


def _build_nemotron_h(family: Family) -> dict[str, Matrix]:
    made = _renamed_ends(HIDDEN)
    config = family.config
    sizes = scan_of(config)
    heads = heads_of(config, 0)
    answering = {layer.index: layer for layer in family.layers}
    for index, letter in enumerate(NEMOTRON_H):
        prefix = f"backbone.layers.{index}."
        made[f"{prefix}norm.weight"] = np.ones(HIDDEN, np.float32)
        if letter == "-":
            for name, shape in (("up", (MLP, HIDDEN)), ("down", (HIDDEN, MLP))):
                made[f"{prefix}mixer.{name}_proj.weight"] = np.zeros(shape, np.float32)
            continue
        layer = answering[index]
        mixer = (
            recurrent.mamba2(sizes, layer.keys, layer.lag, HIDDEN)
            if letter == "M"
            else {f"{n}_proj.weight": m for n, m in softmax.attention(heads, layer.keys, HIDDEN).items()}
        )
        made |= {f"{prefix}mixer.{name}": matrix for name, matrix in mixer.items()}
    return made


def _renamed_ends(hidden: int) -> dict[str, Matrix]:
    return {
        "backbone.embeddings.weight": layout.embedding(hidden),
        "lm_head.weight": layout.output(hidden),
        "backbone.norm_f.weight": np.ones(hidden, np.float32),
    }


def mamba2() -> Family:
    """Return the probe of pure Mamba2: four Mamba2 layers and no other layers."""
    config = {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **{name: COMMON[name] for name in COMMON if name not in {"intermediate_size", "hidden_size", "rope_theta"}},
        "hidden_size": PURE_HIDDEN,
        "num_hidden_layers": 4,
        "num_heads": 16,
        "head_dim": 64,
        "state_size": 128,
        "n_groups": 1,
        "conv_kernel": 4,
        "expand": 2,
        "chunk_size": 256,
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": 1e-5,
        "rms_norm": True,
        "norm_before_gate": False,
        "residual_in_fp32": True,
        "rescale_prenorm_residual": False,
        "time_step_rank": 32,
        "time_step_floor": 0.0001,
        "time_step_min": 0.001,
        "time_step_max": 0.1,
        "time_step_limit": [0.0, 1e9],
    }
    return Family(config, shared_out([(i, "mamba2") for i in range(4)]), _build_mamba2)


def _build_mamba2(family: Family) -> dict[str, Matrix]:
    config, made = family.config, _renamed_ends(PURE_HIDDEN)
    sizes = scan_of(config)
    for layer in family.layers:
        prefix = f"backbone.layers.{layer.index}."
        made[f"{prefix}norm.weight"] = np.ones(PURE_HIDDEN, np.float32)
        mixer = recurrent.mamba2(sizes, layer.keys, layer.lag, PURE_HIDDEN)
        made |= {f"{prefix}mixer.{name}": matrix for name, matrix in mixer.items()}
    return made
