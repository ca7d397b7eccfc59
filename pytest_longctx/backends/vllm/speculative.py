"""
Speculative decoding in vLLM: the weights, caches and tokens that a draft model or head adds.

Sources of 0.32.0: ``model_executor/models`` (``llama_eagle3.py``, ``qwen3_5_mtp.py``, ``deepseek_mtp.py``),
``config/speculative.py``, ``v1/kv_cache_interface.py`` (``num_speculative_blocks``).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_longctx.backends.vllm.overhead import Range
from pytest_longctx.deployments.deployment import Deployment, FlagValue
from pytest_longctx.deployments.shape import Shape
from pytest_longctx.shapes.caches import Attention, Cache, Latent
from pytest_longctx.shapes.model import Layer, ModelShape
from pytest_longctx.shapes.tensors import Tensor

_WITHOUT_MODEL = ("ngram", "ngram_gpu", "suffix")
"""Methods that draft from the text, without a model."""


NOTHING = Range(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Draft:
    """
    The drafting part of a server: its weights on one device, the caches of its layers, and the number of tokens per
    draft.
    """

    weights: Range = NOTHING
    caches: tuple[tuple[Cache, int], ...] = ()
    tokens: int = 0


def config(flags: Mapping[str, FlagValue]) -> Mapping[str, Any]:
    """
    Return the table of ``--speculative-config``, with the short flags for its parts; empty without speculative
    decoding.
    """
    try:
        found = json.loads(str(flags.get("speculative-config", "{}")))
    except (ValueError, RecursionError):
        return {}
    parts = {"method": "spec-method", "model": "spec-model", "num_speculative_tokens": "spec-tokens"}
    said = {part: flags.get(flag) for part, flag in parts.items()}
    table = found if isinstance(found, dict) else {}
    return {**table, **{part: value for part, value in said.items() if value is not None}}


def method(told: Mapping[str, Any]) -> str:
    """Return the method of speculative decoding. As in vLLM, its default follows from the draft model's name."""
    named = str(told.get("method") or "").lower()
    model = str(told.get("model") or "").lower()
    if named:
        return named
    known = ("eagle3", "eagle", "medusa", "dflash", "ngram")
    return next((each for each in known if each in model), "draft_model" if model else "")


def draft(deployment: Deployment, shape: Shape, tensor_parallel: int) -> Draft | None:
    """Return the draft that vLLM loads for *deployment*: weights, caches and tokens; None if its size is unknown."""
    told = config(deployment.flags)
    how, whole = method(told), shape.model
    if not told or how in _WITHOUT_MODEL:
        return Draft(tokens=_count(told))
    if whole is None or not how:
        return None
    if shape.draft is not None and "mtp" not in how:
        return _of_model(shape, shape.draft, how, told, tensor_parallel)
    last = next((layer for layer in reversed(whole.stack) if _attends(layer)), None)
    if last is None or not ("mtp" in how or how in ("eagle", "eagle3")):
        return None
    if "mtp" not in how and any(".experts." in tensor.name for tensor in last.tensors):
        return None  # EAGLE's layer is dense, as wide as its author made it
    return _of_layer(whole, last, how, _count(told), tensor_parallel)


def draft_tokens(flags: Mapping[str, FlagValue]) -> int:
    """Return the number of tokens that vLLM drafts at once; 0 without speculative decoding."""
    told = config(flags)
    return _count(told) if told else 0


def _count(told: Mapping[str, Any]) -> int:
    value = told.get("num_speculative_tokens")
    return value if isinstance(value, int) and 0 < value < 1000 else 1


def _attends(layer: Layer) -> bool:
    return any(isinstance(cache, Attention | Latent) for cache in layer.caches)


def _of_layer(whole: ModelShape, last: Layer, how: str, tokens: int, devices: int) -> Draft:
    """
    Return a draft of one layer like the model's last attention layer, with a projection. The draft shares the model's
    tables.

    In some checkpoints the draft's weights are quantised. An EAGLE-3 draft has a separate, smaller table.
    """
    hidden, mtp = whole.hidden, "mtp" in how
    tensors = (*whole.draft,) or (*last.tensors, Tensor("draft.fc", hidden, (2 if how != "eagle3" else 3) * hidden))
    index = whole.stack.index(last)
    plain = sum(tensor.on_device(devices) for tensor in tensors) * 2.0
    narrow = sum(whole.scheme.bytes_of(tensor, index, 2, devices) for tensor in tensors)
    table = 0.0 if mtp else 2.0 * 32_000 * hidden / devices * (how == "eagle3")
    most = plain + (0 if mtp else 2.0 * whole.vocabulary * hidden / devices)
    attends = tuple((cache, 1) for cache in last.caches if isinstance(cache, Attention | Latent))
    return Draft(Range(min(narrow, plain), plain + table, max(most, plain + table)), attends, tokens)


def _of_model(shape: Shape, other: ModelShape, how: str, told: Mapping[str, Any], devices: int) -> Draft:
    """
    Return the draft of a separate model from its config.json. ``draft_tensor_parallel_size`` 1 puts a whole copy on
    each device.
    """
    parts = told.get("draft_tensor_parallel_size", devices)
    parts = parts if isinstance(parts, int) and 0 < parts <= devices else devices
    size = float(other.weight_bytes(parts, 2))
    tables = 2.0 * other.vocabulary * other.hidden / parts
    fused = 2.0 * other.hidden * (3 if how == "eagle3" else 2) * shape.hidden if how.startswith("eagle") else 0.0
    least = max(0.0, size - 2 * tables) if how.startswith("eagle") else size
    caches = tuple((cache, count) for cache, count in other.attentions)
    return Draft(Range(least + fused, size + fused, size + fused), caches, _count(told))


def with_draft(found: Iterable[tuple[Cache, int]], one: Draft) -> list[tuple[Cache, int]]:
    """Return the caches of the model's layers and of the draft model's layers together."""
    counts: dict[Cache, int] = {}
    for cache, count in (*found, *one.caches):
        counts[cache] = counts.get(cache, 0) + count
    return list(counts.items())


NO_DRAFT = Draft()
