"""Whether a model's output table is its input table. The model class decides whether and where config.json states this."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

KEY = "tie_word_embeddings"

_WHOLE_NOT = frozenset({"qwen3_vl", "qwen3_vl_moe", "llava_next", "llava_next_video", "idefics3", "llama4"})
"""
The whole config decides. If it is silent, classes of transformers 5 assume something, and older ones ask the text part,
which is believed here. If both are silent, there are two tables.
"""
_WHOLE_TIED = frozenset({"gemma3", "gemma4", "internvl", "mistral3", "aya_vision"})
"""As `_WHOLE_NOT`, but if both are silent, there is one table."""
_EITHER = frozenset({"llava", "llava_onevision", "glm4v", "qwen2_vl"})
"""One table if the whole config or its text part says so."""
_TEXT = frozenset({"smolvlm", "qwen3_5", "qwen3_5_moe"})
"""The text part decides."""
_WHOLE_FIRST = frozenset({"internvl_chat", "qwen2_5_omni"})
"""The whole config decides. If it is silent, its text part decides."""
_ALWAYS: Mapping[str, bool] = MappingProxyType(
    {"cohere2_vision": True, "lfm2_vl": True, "paligemma": True, "glm4v_moe": False, "voxtral": False}
)
"""Whatever the file says."""

_TEXT_ALWAYS: Mapping[str, bool] = MappingProxyType(
    {
        **dict.fromkeys(("cohere", "cohere2", "gemma2", "lfm2", "zamba2"), True),
        **dict.fromkeys(("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe", "glm4_moe_lite", "gpt_oss"), False),
        **dict.fromkeys(("jamba", "minimax_m2", "olmoe", "qwen3_next"), False),
    }
)
"""Whether a text model's class has one table, whatever the file says."""


def settled(kind: str, text: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of a *text* model of type *kind*, with the key for tied embeddings as the model's class reads it."""
    return {**text, KEY: _TEXT_ALWAYS[kind]} if kind in _TEXT_ALWAYS else text


def tie(kind: str, whole: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the key for tied embeddings as vLLM's class of a multimodal model of type *kind* sets it, from the *whole*
    config and its *text* part; empty if the default of the text model's class holds. Tried with each class of vLLM 0.32
    and nine files.
    """
    outer, inner = whole.get(KEY), text.get(KEY)
    if kind in _ALWAYS:
        return {KEY: _ALWAYS[kind]}
    if kind in _WHOLE_NOT or kind in _WHOLE_TIED:
        return {KEY: next((said for said in (outer, inner) if said is not None), kind in _WHOLE_TIED)}
    if kind in _EITHER:
        return {KEY: outer if isinstance(outer, bool) and outer else inner or outer or False}
    if kind in _TEXT:
        return {KEY: False if inner is None else inner}
    first, second = (outer, inner) if kind in _WHOLE_FIRST else (inner, outer)
    chosen = second if first is None else first
    return {} if chosen is None else {KEY: chosen}
