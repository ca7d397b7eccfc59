"""Whether the output table of a multimodal model is the input table: the class decides where its config.json says so."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

KEY = "tie_word_embeddings"

_WHOLE_NOT = frozenset({"qwen3_vl", "qwen3_vl_moe", "llava_next", "llava_next_video", "idefics3", "llama4"})
"""The whole config decides; if it is silent, the tables are two."""
_WHOLE_TIED = frozenset({"gemma3", "gemma4", "internvl", "mistral3", "aya_vision"})
"""The whole config decides; if it is silent, there is one table."""
_EITHER = frozenset({"llava", "llava_onevision", "glm4v", "qwen2_vl"})
"""One table if the whole config or its text part says so."""
_TEXT = frozenset({"smolvlm", "qwen3_5", "qwen3_5_moe"})
"""The text part decides."""
_WHOLE_FIRST = frozenset({"internvl_chat", "qwen2_5_omni"})
"""The whole config decides; if it is silent, the text part."""
_ALWAYS: Mapping[str, bool] = MappingProxyType(
    {"cohere2_vision": True, "lfm2_vl": True, "paligemma": True, "glm4v_moe": False, "voxtral": False}
)
"""Whatever the file says."""


def tie(kind: str, whole: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """
    What vLLM's class of a multimodal model of type *kind* makes of the key in the *whole* config and in its *text*
    part; empty if the default of the text model's class holds. Tried with each class of vLLM 0.32 and nine files.
    """
    outer, inner = whole.get(KEY), text.get(KEY)
    if kind in _ALWAYS:
        return {KEY: _ALWAYS[kind]}
    if kind in _WHOLE_NOT or kind in _WHOLE_TIED:
        return {KEY: kind in _WHOLE_TIED if outer is None else outer}
    if kind in _EITHER:
        return {KEY: outer if isinstance(outer, bool) and outer else inner or outer or False}
    if kind in _TEXT:
        return {KEY: False if inner is None else inner}
    first, second = (outer, inner) if kind in _WHOLE_FIRST else (inner, outer)
    chosen = second if first is None else first
    return {} if chosen is None else {KEY: chosen}
