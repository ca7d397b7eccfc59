"""
The probe families without an engine: a forward pass in FP64 over the tensors of the checkpoint, position by position.

Rotary embeddings are left out: `turning` says by how much they turn what a head holds. Recurrent layers run token by token,
as their recurrences are written: Gated DeltaNet as in arXiv 2412.06464, Mamba2 as in arXiv 2405.21060.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_longctx.probe import decoders, hybrids
from pytest_longctx.probe.families import Family, Layer
from pytest_longctx.probe.softmax import Heads

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, Array]
Config = Mapping[str, Any]


@lru_cache(maxsize=1)
def _loaded(family: Family) -> Tensors:
    return {name: tensor.astype(np.float64) for name, tensor in family.tensors().items()}


def loaded(family: Family) -> dict[str, Array]:
    """Return the tensors as an engine reads them: rounded to BF16. The matrices are shared; replace them, do not change them."""
    return dict(_loaded(family))


def logits(family: Family, tensors: Tensors, ids: npt.NDArray[np.uint32], last: int) -> Array:
    """Return the logits (last, vocabulary) after each of the *last* tokens of *ids*."""
    model, config = Forward(family, tensors), family.config
    hidden = tensors[model.named("embed")][ids]
    if model.gemma:
        hidden = hidden * math.sqrt(config["hidden_size"])
    if model.type == "gemma2":
        hidden = hidden + model.rewritten(hidden)
    for layer in sorted(family.layers, key=lambda layer: layer.index):
        hidden = hidden + model.mixed(layer, hidden)
    out = tensors["lm_head.weight"] if "lm_head.weight" in tensors else tensors[model.named("embed")]
    return capped(model.normed(hidden[-last:], model.named("final")) @ out.T, config.get("final_logit_softcapping"))


class Forward:
    """The layers of one family that answer. All others add zero, and are left out."""

    def __init__(self, family: Family, tensors: Tensors) -> None:
        self.config, self.tensors = family.config, tensors
        self.type = family.config["model_type"]
        self.gemma = self.type.startswith("gemma")
        self.renamed = self.type in {"nemotron_h", "mamba2"}
        self.plus_one = self.gemma or self.type.startswith("qwen3_")

    def named(self, which: str) -> str:
        names = {"embed": ("model.embed_tokens", "backbone.embeddings"), "final": ("model.norm", "backbone.norm_f")}
        return f"{names[which][self.renamed]}.weight"

    def normed(self, hidden: Array, name: str) -> Array:
        scaled: Array = norm(hidden, self.config["rms_norm_eps"]) * (self.tensors[name] + self.plus_one)
        return scaled

    def rewritten(self, hidden: Array) -> Array:
        """What the MLP of Gemma 2's first layer adds."""
        hidden = self.normed(hidden, "model.layers.0.pre_feedforward_layernorm.weight")
        gate, up, down = (self.tensors[f"model.layers.0.mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
        return self.normed(
            (gelu(hidden @ gate) * (hidden @ up)) @ down, "model.layers.0.post_feedforward_layernorm.weight"
        )

    def own(self, layer: Layer) -> dict[str, Array]:
        """The tensors of the mixer of *layer*, by the end of their names."""
        part = {"delta": "linear_attn", "mamba2": "mixer"}.get(layer.kind, "mixer" if self.renamed else "self_attn")
        prefix = f"{'backbone' if self.renamed else 'model'}.layers.{layer.index}.{part}."
        return {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}

    def mixed(self, layer: Layer, hidden: Array) -> Array:
        prefix = f"{'backbone' if self.renamed else 'model'}.layers.{layer.index}."
        hidden = self.normed(hidden, f"{prefix}{'norm' if self.renamed else 'input_layernorm'}.weight")
        kinds = {"latent": latent, "delta": delta, "mamba2": mamba2}
        added = kinds.get(layer.kind, softmax)(self.config, self.own(layer), hidden, layer)
        return self.normed(added, f"{prefix}post_attention_layernorm.weight") if self.gemma else added


def norm(values: Array, eps: float) -> Array:
    normed: Array = values / np.sqrt((values**2).mean(axis=-1, keepdims=True) + eps)
    return normed


def capped(values: Array, cap: float | None) -> Array:
    limited: Array = cap * np.tanh(values / cap) if cap else values
    return limited


def gelu(values: Array) -> Array:
    activated: Array = values * (1 + np.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3))) / 2
    return activated


def silu(values: Array) -> Array:
    return values * sigmoid(values)


def sigmoid(values: Array) -> Array:
    share: Array = 1 / (1 + np.exp(-values))
    return share


def attended(
    query: Array,
    key: Array,
    value: Array,
    scale: float,
    window: int | None,
    sinks: Array | None = None,
    cap: float | None = None,
) -> Array:
    """Causal attention: query, key and value are (tokens, heads, dim), sinks one for each head."""
    tokens = len(query)
    scores = capped(np.einsum("qhd,khd->hqk", query, key) * scale, cap)
    back = np.arange(tokens)[:, None] - np.arange(tokens)
    scores[:, (back < 0) | (back >= (window or tokens))] = -np.inf
    if sinks is not None:
        scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (len(sinks), tokens, 1))], axis=2)
    share = np.exp(scores - scores.max(axis=2, keepdims=True))
    share /= share.sum(axis=2, keepdims=True)
    found: Array = np.einsum("hqk,khd->qhd", share[:, :, :tokens], value).reshape(tokens, -1)
    return found


def softmax(config: Config, own: Tensors, hidden: Array, layer: Layer) -> Array:
    heads, tokens = decoders.heads_of(config), len(hidden)
    query = (hidden @ own["q_proj.weight"].T).reshape(tokens, heads.query, -1)
    key, value = ((hidden @ own[f"{name}_proj.weight"].T).reshape(tokens, heads.kv, -1) for name in ("k", "v"))
    query, gate = query[:, :, : heads.dim], query[:, :, heads.dim :]
    if "q_norm.weight" in own:
        more = 0 if config["model_type"] == "qwen3" else 1
        query = norm(query, config["rms_norm_eps"]) * (own["q_norm.weight"] + more)
        key = norm(key, config["rms_norm_eps"]) * (own["k_norm.weight"] + more)
    key, value = (np.repeat(each, heads.per_kv, axis=1) for each in (key, value))
    cap = config.get("attn_logit_softcapping")
    found = attended(query, key, value, heads.dim**-0.5, layer.window, own.get("sinks"), cap)
    return (found * sigmoid(gate.reshape(tokens, -1)) if gate.size else found) @ own["o_proj.weight"].T


def latent(config: Config, own: Tensors, hidden: Array, layer: Layer) -> Array:
    sizes = decoders.latent_of(config)
    query, key, value = latent_heads(config, own, hidden)
    found = attended(query, key, value, (sizes.nope + sizes.rope) ** -0.5, layer.window)
    return found @ own["o_proj.weight"].T


def latent_heads(config: Config, own: Tensors, hidden: Array) -> tuple[Array, Array, Array]:
    """Return query, key and value of latent attention as (tokens, heads, dim), the rotary part of both last."""
    sizes, tokens, eps = decoders.latent_of(config), len(hidden), config["rms_norm_eps"]
    if sizes.q_lora_rank:
        query = norm(hidden @ own["q_a_proj.weight"].T, eps) @ own["q_b_proj.weight"].T
    else:
        query = hidden @ own["q_proj.weight"].T
    stored = hidden @ own["kv_a_proj_with_mqa.weight"].T
    up = norm(stored[:, : sizes.kv_lora_rank], eps) @ own["kv_b_proj.weight"].T
    up = up.reshape(tokens, sizes.heads, -1)
    turned = np.repeat(stored[:, None, sizes.kv_lora_rank :], sizes.heads, axis=1)
    key = np.concatenate([up[:, :, : sizes.nope], turned], axis=2)
    return query.reshape(tokens, sizes.heads, -1), key, up[:, :, sizes.nope :]


def convolved(values: Array, taps: Array) -> Array:
    """Causal convolution of (tokens, channels) with (channels, 1, kernel), then SiLU."""
    kernel = taps.shape[2]
    padded = np.concatenate([np.zeros((kernel - 1, values.shape[1])), values])
    return silu(np.sum([padded[i : i + len(values)] * taps[:, 0, i] for i in range(kernel)], axis=0))


def delta(config: Config, own: Tensors, hidden: Array, layer: Layer) -> Array:
    """Per head: S = S exp(g); S += k (beta (v - S^T k))^T; o = S^T q / sqrt(d), with q and k of norm 1."""
    sizes, tokens = hybrids.delta_net_of(config), len(hidden)
    mixed, gate, beta, alpha = delta_inputs(own, hidden, config)
    mixed = convolved(mixed, own["conv1d.weight"])
    keyed = sizes.key_heads * sizes.key_dim
    query, key = (mixed[:, i * keyed : (i + 1) * keyed].reshape(tokens, sizes.key_heads, -1) for i in (0, 1))
    query, key = (np.repeat(unit(each), sizes.value_heads // sizes.key_heads, axis=1) for each in (query, key))
    value = mixed[:, 2 * keyed :].reshape(tokens, sizes.value_heads, -1)
    decay = np.exp(-np.exp(own["A_log"]) * np.log1p(np.exp(alpha + own["dt_bias"])))
    state, found = np.zeros((sizes.value_heads, sizes.key_dim, sizes.value_dim)), np.zeros(value.shape)
    for at in range(tokens):
        state = state * decay[at][:, None, None]
        seen = np.einsum("hkv,hk->hv", state, key[at])
        state = state + key[at][:, :, None] * (sigmoid(beta[at])[:, None] * (value[at] - seen))[:, None, :]
        found[at] = np.einsum("hkv,hk->hv", state, query[at]) / math.sqrt(sizes.key_dim)
    put = norm(found, config["rms_norm_eps"]) * own["norm.weight"] * silu(gate.reshape(value.shape))
    return put.reshape(tokens, -1) @ own["out_proj.weight"].T


def unit(values: Array) -> Array:
    scaled: Array = values / np.sqrt((values**2).sum(axis=-1, keepdims=True) + 1e-6)
    return scaled


def delta_inputs(own: Tensors, hidden: Array, config: Config) -> tuple[Array, Array, Array, Array]:
    if "in_proj_qkv.weight" in own:
        qkv, gate, beta, alpha = (hidden @ own[f"in_proj_{name}.weight"].T for name in ("qkv", "z", "b", "a"))
        return qkv, gate, beta, alpha
    sizes, tokens = hybrids.delta_net_of(config), len(hidden)
    both = (hidden @ own["in_proj_qkvz.weight"].T).reshape(tokens, sizes.key_heads, -1)
    each = sizes.value_heads // sizes.key_heads
    cuts = np.cumsum([sizes.key_dim, sizes.key_dim, each * sizes.value_dim])
    query, key, value, gate = (part.reshape(tokens, -1) for part in np.split(both, cuts, axis=2))
    rates = (hidden @ own["in_proj_ba.weight"].T).reshape(tokens, sizes.key_heads, 2, each)
    beta, alpha = (rates[:, :, i].reshape(tokens, -1) for i in (0, 1))
    return np.concatenate([query, key, value], axis=1), gate, beta, alpha


def mamba2(config: Config, own: Tensors, hidden: Array, layer: Layer) -> Array:
    """Per head: h = h exp(A dt) + dt B x^T; y = C h + D x."""
    sizes, tokens = hybrids.scan_of(config), len(hidden)
    inner, states = sizes.heads * sizes.head_dim, sizes.groups * sizes.state
    gate, mixed, step = np.split(hidden @ own["in_proj.weight"].T, [inner, 2 * inner + 2 * states], axis=1)
    mixed = convolved(mixed, own["conv1d.weight"])
    value = mixed[:, :inner].reshape(tokens, sizes.heads, -1)
    stored, asked = (
        np.repeat(
            mixed[:, start : start + states].reshape(tokens, sizes.groups, -1), sizes.heads // sizes.groups, axis=1
        )
        for start in (inner, inner + states)
    )
    step = np.log1p(np.exp(step + own["dt_bias"]))
    state, found = np.zeros((sizes.heads, sizes.state, sizes.head_dim)), np.zeros(value.shape)
    for at in range(tokens):
        decay = np.exp(-np.exp(own["A_log"]) * step[at])[:, None, None]
        state = state * decay + stored[at][:, :, None] * (step[at][:, None] * value[at])[:, None, :]
        found[at] = np.einsum("hsp,hs->hp", state, asked[at]) + own["D"][:, None] * value[at]
    gated = (found.reshape(tokens, -1) * silu(gate)).reshape(tokens, sizes.groups, -1)
    put = norm(gated, config["rms_norm_eps"]).reshape(tokens, -1) * own["norm.weight"]
    return put @ own["out_proj.weight"].T


def turning(heads: Heads, base: float, dims: list[int], tokens: int) -> float:
    """The largest angle by which a rotary embedding turns any of *dims* between two of *tokens* tokens."""
    half = heads.rotary // 2
    pairs = [dim % half for dim in dims if dim < heads.rotary]
    return max((base ** (-2 * pair / heads.rotary) * tokens for pair in pairs), default=0.0)
