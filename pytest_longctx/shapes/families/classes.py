"""
The model class that ``architectures`` of a config.json names. Engines choose the class by this key, not by
``model_type``.
"""

import re

from pytest_longctx.shapes.config_keys import Keys, shown
from pytest_longctx.shapes.tensors import Tensor

_DRAFTS = re.compile(
    r"eagle(?!2_5_vl)|dflash|dspark|domino|medusa|draft|speculator|mtp|nextn|assistant|lilicorr", re.IGNORECASE
)
"""Classes of heads that draft for another model; they have projections and tables that `model_type` knows nothing of."""
_DENSE = frozenset(
    {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "GemmaForCausalLM",
        "Phi3ForCausalLM",
    }
)
_SIGHTLESS = {"ChatGLMModel": "GLM4VForCausalLM", "ChatGLMForConditionalGeneration": "GLM4VForCausalLM"}
"""Classes of the text part alone, and the class that also loads the encoder; engines refuse them for a file with both."""
_DIVIDES = frozenset(
    (
        *("qwen2", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "mimo", "internlm2", "orion", "minicpm"),
        *("stablelm", "chatglm", "olmoe"),
    )
)
"""Types whose class in vLLM 0.32 does not look at the width of a head."""
_MIXED = re.compile(r"(Mixtral|Moe|MoE|Deepseek|DeepSeek|Jamba|Mamba|GptOss)\w*ForCausalLM")
_BOTH_WAYS = re.compile(r"Bidirectional")
"""Classes with bidirectional attention."""
_HEADLESS = re.compile(
    r"For(Sequence|Token)Classification$|RewardModel$|^(Llama|Mistral|Qwen2|Qwen3|Gemma2|Gemma3Text)Model$"
)
"""Classes without an output table: rewards, classes and embeddings."""


def names(k: Keys) -> list[str]:
    """Return the names of the classes that a config names; empty if ``architectures`` is no list."""
    found = k.raw("architectures")
    return [each for each in found if isinstance(each, str)] if isinstance(found, list | tuple) else []


def check(k: Keys, family: str, *, plain: bool) -> None:
    """
    Raise `MisreadError` for a config whose class is a draft head, or whose class and *family* disagree about a mixture
    of experts.

    *plain* is whether *family* is dense and has attention in every layer.
    """
    for name in names(k)[:1]:
        if name in _SIGHTLESS and k.raw("vision_config"):
            raise k.refuse(
                "architectures", f"{name} has no encoder, but the file describes one; use {_SIGHTLESS[name]}"
            )
        if _DRAFTS.search(name):
            raise k.refuse("architectures", f"{name} is a draft head, which no engine serves by itself")
        if (name in _DENSE and not plain) or (_MIXED.fullmatch(name) and plain):
            raise k.refuse("architectures", f"{name} is not a class of the model type {shown(family)}")


def check_width(k: Keys, family: str) -> None:
    """Raise `MisreadError` for a width of heads that differs from hidden size / heads, which vLLM's class computes."""
    if family not in _DIVIDES:
        return
    width, heads = k.maybe("head_dim", "kv_channels", least=1), k.maybe("num_attention_heads", least=1)
    hidden = k.maybe("hidden_size", least=1)
    if width and heads and hidden and width != hidden // heads:
        said = f"the heads have the size {width}, but vLLM computes hidden size / heads = {hidden} / {heads}"
        raise k.refuse("head_dim" if k.has("head_dim") else "kv_channels", said)


def check_causal(k: Keys) -> None:
    """
    Raise `MisreadError` for a config, or its text part, with bidirectional attention, for which engines keep no KV
    cache.
    """
    if k.raw("is_causal") is False:
        raise k.refuse("is_causal", "a model with bidirectional attention has no KV cache and is not supported")
    for name in names(k)[:1]:
        if _BOTH_WAYS.search(name):
            raise k.refuse(
                "architectures", f"{name} has bidirectional attention and no KV cache, so this class is not supported"
            )


def loaded(k: Keys, outside: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tensors *outside* the layers that the class of a config loads. A classifier has no output table."""
    if any(_HEADLESS.search(name) for name in names(k)[:1]):
        return tuple(tensor for tensor in outside if not tensor.name.startswith("lm_head"))
    return outside
