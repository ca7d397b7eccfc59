"""
Probe families of Gemma: every layer norms the outputs of attention and MLP, and multiplies embeddings by sqrt(hidden).

Gemma 2 has one matrix for embedding and output. A row then holds both the meaning of a token and what predicts it. The
first layer's MLP removes the prediction from every token that asks, and the final norm hides the meaning from the output.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_longctx.probe import codes, decoders, layout, softmax
from pytest_longctx.probe.codes import KEYS, VALUES, WIDTH
from pytest_longctx.probe.decoders import COMMON
from pytest_longctx.probe.families import Family, Layer, shared_out
from pytest_longctx.probe.layout import ASK, ASKING, BALLAST, CONSTANT, FILL, GOT_KEY, GOT_VALUE, WRITTEN
from pytest_longctx.probe.weights import NONE_READS, Matrix

HIDDEN = 1024
"""Hidden size. Its square root, by which embeddings are multiplied, is 32."""

SCALE = 32.0

ASKED = slice(384, 384 + WIDTH)
"""Field from which Gemma 2 reads the code of the asked key. "none" reads `DENIED`."""
DENIED = slice(448, 464)

HELD = 8.0
"""Constant in `layout.BALLAST` of attention's output: 16 of 1,024 dimensions, so their mean square is 1."""

TIED_MLP = 256
"""Size of Gemma 2's MLPs: `_rewrite` needs 224."""

CAPPED_LOGITS = 1 / 16
"""Scale of Gemma 2's logits. The largest is then 12, so a cap of 30 keeps them distinct in BF16."""


def gemma3(window: int = 512) -> Family:
    """
    Return Gemma 3's probe: five layers with a window, then one without (1B: 512 tokens). Its embeddings are not tied
    here.
    """
    kinds: list[tuple[int, Any]] = [(i, "sliding") for i in range(5)] + [(5, "full")]
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **COMMON,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_local_base_freq": decoders.STILL_BASE,
        "rope_scaling": None,
        "sliding_window": window,
        "sliding_window_pattern": 6,
        "layer_types": [f"{kind}_attention" for _, kind in kinds],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    return Family(config, shared_out(kinds, window), _build_gemma3)


def _layer(family: Family, layer: Layer, *, normed: bool) -> dict[str, Matrix]:
    """Return the attention of *layer*, with Gemma's norms, which multiply by 1 + weight."""
    heads, prefix = decoders.heads_of(family.config), f"model.layers.{layer.index}."
    projections = softmax.attention(heads, layer.keys, HIDDEN, normed=normed)
    named = decoders.named(softmax.held(heads, HELD, HIDDEN, projections))
    made = {f"{prefix}self_attn.{name}": each for name, each in named.items()}
    if normed:
        made[f"{prefix}self_attn.q_norm.weight"] = np.full(heads.dim, softmax.norm_gain(heads) - 1, np.float32)
        made[f"{prefix}self_attn.k_norm.weight"] = np.zeros(heads.dim, np.float32)
    made[f"{prefix}post_attention_layernorm.weight"] = _only((GOT_KEY, GOT_VALUE), SCALE)
    return made


def _only(fields: tuple[slice, ...], factor: float) -> Matrix:
    """Return the weight of a Gemma norm that multiplies *fields* by *factor* and hides all others."""
    weight = np.full(HIDDEN, -1, np.float32)
    for each in fields:
        weight[each] = factor - 1
    return weight


def _rest(index: int, mlp: int) -> dict[str, Matrix]:
    """Return the MLP of a Gemma layer, which adds nothing, and the norms around it."""
    prefix = f"model.layers.{index}."
    norms = ("input_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    made = {f"{prefix}{name}.weight": np.zeros(HIDDEN, np.float32) for name in norms}
    return made | decoders.empty_mlp(f"{prefix}mlp.", HIDDEN, mlp)


def _build_gemma3(family: Family) -> dict[str, Matrix]:
    made = decoders.ends(HIDDEN) | {"model.norm.weight": np.zeros(HIDDEN, np.float32)}
    for layer in family.layers:
        made |= _rest(layer.index, family.config["intermediate_size"]) | _layer(family, layer, normed=True)
    return made


def gemma2(window: int = 4096) -> Family:
    """Return Gemma 2's probe: a window in every other layer (4,096 tokens), scores capped at 50 and logits at 30."""
    kinds: list[tuple[int, Any]] = [(2, "sliding"), (1, "full"), (4, "sliding"), (3, "full")]
    config = {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        **COMMON,
        "hidden_size": HIDDEN,
        "intermediate_size": TIED_MLP,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "sliding_window": window,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    return Family(config, shared_out(kinds, window), _build_gemma2)


def _build_gemma2(family: Family) -> dict[str, Matrix]:
    final = _only((GOT_KEY, GOT_VALUE), CAPPED_LOGITS / WRITTEN)
    final[ASKED] = final[FILL] = CAPPED_LOGITS - 1
    final[DENIED] = CAPPED_LOGITS * NONE_READS * WIDTH / (2 * (DENIED.stop - DENIED.start)) - 1
    made = {"model.embed_tokens.weight": tied(), "model.norm.weight": final}
    mlp = family.config["intermediate_size"]
    for layer in family.layers:
        made |= _rest(layer.index, mlp) | _layer(family, layer, normed=False)
    # The first layer's attention adds nothing, since its output is cleared right behind it.
    first = _layer(family, family.layers[0], normed=False)
    for name, matrix in first.items():
        made[name.replace(".2.", ".0.")] = np.zeros_like(matrix) if "o_proj" in name else matrix
    return made | _rest(0, mlp) | _rewrite(mlp)


def tied() -> Matrix:
    """Return the one matrix of Gemma 2, shape (vocabulary, hidden), whose rows have a mean square of exactly 1."""
    code, pairs = codes.hadamard(), np.arange(KEYS * VALUES)
    table = layout.embedding(HIDDEN).copy()
    answers, nones = slice(codes.ANSWER, codes.FILLER), slice(codes.NONE, codes.NEEDLE)
    table[answers, GOT_KEY], table[answers, GOT_VALUE] = code[pairs // VALUES], code[pairs % VALUES]
    table[answers, ASKED], table[nones, ASKED] = code[pairs // VALUES], code
    table[nones, DENIED] = 2
    table[:, BALLAST] = 0
    missing = (HIDDEN - (table**2).sum(axis=1)) // 64
    table[:, BALLAST] = 8 * (np.arange(BALLAST.stop - BALLAST.start) < missing[:, None])
    return table


def _rewrite(size: int) -> dict[str, Matrix]:
    """
    Return the MLP of Gemma 2's first layer, which clears the fetched codes and `ASKED`, and copies the asked key and
    the mark of asking.

    The gate is a constant of 8, whose GELU is 8, so the MLP is linear. A constant of 64 in 16 dimensions sets the norm
    of its output, a mean square of 64. All other writes add 0.4 % at most.
    """
    fields = np.r_[GOT_KEY, GOT_VALUE, ASKED, DENIED, BALLAST]
    up, down = np.zeros((size, HIDDEN), np.float32), np.zeros((HIDDEN, size), np.float32)
    gate = np.zeros((size, HIDDEN), np.float32)
    gate[: len(fields), CONSTANT] = 8 / (2 * (CONSTANT.stop - CONSTANT.start))
    asked, denied, held = (np.flatnonzero(np.isin(fields, np.r_[field])) for field in (ASKED, DENIED, BALLAST))
    own = np.arange(len(fields) - len(held))
    up[own, fields[own]] = -1
    up[asked, ASK] = np.eye(WIDTH)
    up[denied, ASKING] = 1 / (4 * (ASKING.stop - ASKING.start))
    up[held, CONSTANT] = 64 / (2 * (CONSTANT.stop - CONSTANT.start))
    down[fields, np.arange(len(fields))] = 1 / 8
    matrices: Mapping[str, Matrix] = {"gate": gate, "up": up, "down": down}
    made = {f"model.layers.0.mlp.{name}_proj.weight": matrix for name, matrix in matrices.items()}
    after = _only((GOT_KEY, GOT_VALUE, ASKED, DENIED), 8 * SCALE)
    return made | {"model.layers.0.post_feedforward_layernorm.weight": after}
