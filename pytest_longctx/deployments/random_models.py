"""
Models with random weights, generated on demand, so that a real engine runs without a download.

A tiny model is a folder with ``config.json`` and a tokenizer. The engine makes random weights itself (vLLM and SGLang:
``--load-format dummy``). It can test lengths, memory, limits and time, but not whether an answer is right. Every record
made with it says "random weights". A probe has weights and known right answers: see `pytest_longctx.probe`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from safetensors.numpy import save

from pytest_longctx.probe import checkpoint

TINY_VOCABULARY = 4096
"""Number of token ids of the tiny model. Ids 0 to 15 are special, the others are ordinary words."""

TINY_SPECIAL_TOKENS = 16

TINY_LLAMA4: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "vocab_size": TINY_VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 64,
        "intermediate_size_mlp": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        **checkpoint.SCOUT_ATTENTION,
        **checkpoint.ANY_DECODER,
    }
)


def make_tiny_llama4(folder: Path) -> None:
    """
    Write the files of a four-layer model with Llama-4-Scout's attention pattern into *folder*. The engine makes the
    weights.
    """
    tokens = [f"<{i}>" if i < TINY_SPECIAL_TOKENS else f"w{i}" for i in range(TINY_VOCABULARY)]
    checkpoint.write(folder, checkpoint.texts(TINY_LLAMA4, tokens, TINY_SPECIAL_TOKENS))


RANDOM_GQA: Mapping[str, Any] = MappingProxyType(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": TINY_VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": 131_072,
        "rope_theta": 10_000.0,
        **checkpoint.ANY_DECODER,
    }
)


def make_random_gqa(folder: Path) -> None:
    """
    Write a four-layer Llama model into *folder*, with weights so large that its answer depends on its context.

    Queries and keys are so large that attention prefers some tokens to others, near ones as well as far ones.
    """
    draw, hidden = np.random.Generator(np.random.PCG64(1)), RANDOM_GQA["hidden_size"]
    made = {}
    for name, rows, columns in _llama_shapes(RANDOM_GQA):
        gain = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
        made[name] = (gain / np.sqrt(columns) * draw.standard_normal((rows, columns), np.float32)).astype(bfloat16)
    norms = [f"model.layers.{i}.{each}_layernorm.weight" for i in range(4) for each in ("input", "post_attention")]
    made |= {name: np.ones(hidden, bfloat16) for name in (*norms, "model.norm.weight")}
    words = [f"<{i}>" if i < TINY_SPECIAL_TOKENS else f"w{i}" for i in range(TINY_VOCABULARY)]
    files = checkpoint.texts(RANDOM_GQA, words, TINY_SPECIAL_TOKENS)
    checkpoint.write(folder, {"model.safetensors": save(made, {"format": "pt"}), **files})


def _llama_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield name, rows and columns of every matrix of a generated Llama checkpoint."""
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    yield "model.embed_tokens.weight", config["vocab_size"], hidden
    yield "lm_head.weight", config["vocab_size"], hidden
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield f"{prefix}self_attn.q_proj.weight", heads * dim, hidden
        yield f"{prefix}self_attn.k_proj.weight", kv_heads * dim, hidden
        yield f"{prefix}self_attn.v_proj.weight", kv_heads * dim, hidden
        yield f"{prefix}self_attn.o_proj.weight", hidden, heads * dim
        yield f"{prefix}mlp.gate_proj.weight", inner, hidden
        yield f"{prefix}mlp.up_proj.weight", inner, hidden
        yield f"{prefix}mlp.down_proj.weight", hidden, inner
