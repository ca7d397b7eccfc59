"""Refusals that are known without memory arithmetic: invalid flags, lengths, heads, devices and combinations."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_longctx.backends import context_length
from pytest_longctx.backends.vllm import speculative
from pytest_longctx.plan import classes, combinations
from pytest_longctx.plan.parallel import Spread
from pytest_longctx.plan.planned_server import Asked, within
from pytest_longctx.shapes import ModelShape
from pytest_longctx.shapes.caches import Attention, Latent


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a server does not start, known before its memory is computed."""

    name: str
    """Name of the refusal in the catalogue of log lines; empty if the catalogue lacks it."""
    phase: str
    said: str
    cures: tuple[Mapping[str, Any], ...] = ()
    """Changes of flags to try, each by canonical name; None removes a flag."""
    advice: str = ""
    """Advice beside changes of flags."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about the model and the devices."""

    whole: ModelShape | None
    config: Any
    longest: int | None
    """The longest context in tokens that the engine derives; None if it derives none."""
    spread: Spread
    kind: str
    """Kind of device."""
    devices: int
    """Number of devices."""


def find(asked: Asked, facts: Facts) -> Iterator[Refusal]:
    """Return every known refusal of the server *asked*, in the order of a boot, without memory arithmetic."""
    for problem in asked.problems:
        yield Refusal("bad-flag", "command line", str(problem))
    checked = (*(check(asked) for check in _FLAG_CHECKS), *(check(asked, facts) for check in _CHECKS))
    yield from (found for found in checked if found is not None)


_AT_LEAST_ONE = (
    *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", "max-num-seqs", "max-num-batched-tokens"),
    *("block-size", "tp-size", "pp-size", "dp-size", "page-size", "max-running-requests", "context-length"),
    *("prefill-context-parallel-size", "decode-context-parallel-size"),
)


def _sizes(asked: Asked) -> Refusal | None:
    for name in _AT_LEAST_ONE:
        value = asked.flags.get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            return Refusal(
                "bad-value", "config", f"--{name} {value} must be a whole number of at least 1", ({name: None},)
            )
    length = asked.length
    if length is not None and length < 1 and length != -1:
        return Refusal(
            "bad-value",
            "config",
            f"--{asked.length_flag} {length} must be a number of tokens, at least 1",
            ({asked.length_flag: None},),
        )
    return None


def _shares(asked: Asked) -> Refusal | None:
    name = "gpu-memory-utilization" if asked.engine == "vllm" else "mem-fraction-static"
    value = asked.flags.get(name)
    if isinstance(value, int | float) and not 0 < value <= 1:
        return Refusal(
            "bad-value",
            "config",
            f"--{name} {value} must be above 0 and at most 1",
            ({name: None},),
        )
    return None


def _positions(asked: Asked, facts: Facts) -> Refusal | None:
    length, longest = asked.length, facts.longest
    if length is None or longest is None or length <= longest:
        return None
    variable = _LONGER[asked.engine]
    if asked.env.get(variable, "").lower() in ("1", "true"):
        return None
    told = "--hf-overrides" if asked.engine == "vllm" else "--json-model-override-args"
    advice = (
        f"a scaling of the positions ({told} with rope_parameters or rope_scaling, and max_position_embeddings), "
        f"or {variable}=1"
    )
    name, said = (
        asked.length_flag.replace("-", "_"),
        f"the {longest:,} positions that {asked.engine} derives (max_position_embeddings, scaling)",
    )
    return Refusal(
        "context-not-derived",
        "config",
        f"{name} {length:,} is above {said} from config.json{_unscaled(asked, facts)}",
        ({asked.length_flag: longest},),
        advice,
    )


_LONGER = {"vllm": "VLLM_ALLOW_LONG_MAX_MODEL_LEN", "sglang": "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"}
"""The variable that allows a context longer than the derived one."""


def _unscaled(asked: Asked, facts: Facts) -> str:
    text = facts.config.get("text_config", facts.config) if isinstance(facts.config, Mapping) else {}
    found = context_length.tables(text) if isinstance(text, Mapping) else []
    if asked.engine == "sglang" and any("original_max_position_embeddings" in table for table in found):
        return " (SGLang does not multiply them by a factor beside original_max_position_embeddings)"
    if asked.engine == "vllm" and any(context_length.kind(table) == "yarn" for table in found):
        return " (since 0.30 vLLM does not multiply them by YaRN's factor; max_position_embeddings must be the product)"
    return ""


def _devices(asked: Asked, facts: Facts) -> Refusal | None:
    spread = facts.spread
    if spread.shared and spread.tensor % spread.data:
        return Refusal(
            "bad-flag",
            "config",
            f"{spread.tensor} devices cannot be divided evenly among {spread.data} data-parallel ranks of attention",
        )
    # A rank is a part of a CPU, and a core of a Neuron chip.
    if spread.devices <= facts.devices or facts.kind.startswith(("cpu", "trn", "inf")):
        return None
    flag = "tensor-parallel-size" if asked.engine == "vllm" else "tp-size"
    fewer = facts.devices // max(1, spread.devices // spread.tensor)
    cures = ({flag: fewer},) if fewer else ()
    return Refusal(
        "config", "config", f"{spread} needs {spread.devices} devices, and the hardware has {facts.devices}", cures
    )


def _heads(asked: Asked, facts: Facts) -> Refusal | None:
    parts, whole = facts.spread.attention, facts.whole
    if whole is None or parts == 1 or not whole.heads:
        return None
    flag = "tensor-parallel-size" if asked.engine == "vllm" else "tp-size"
    fits = [n for n in range(1, parts) if not whole.heads % n]
    if whole.heads % parts:
        said = f"{whole.heads} attention heads cannot be divided evenly among {parts} tensor-parallel devices"
        return Refusal("config", "config", said, ({flag: fits[-1] * (facts.spread.tensor // parts)},))
    attentions = [cache for cache, _ in whole.attentions if isinstance(cache, Attention)]
    uneven = next((c.kv_heads for c in attentions if max(c.kv_heads, parts) % min(c.kv_heads, parts)), None)
    if uneven is not None:
        said = f"{uneven} KV heads cannot be divided or repeated evenly on {parts} tensor-parallel devices"
        even = [n for n in fits if max(uneven, n) % min(uneven, n) == 0]
        return Refusal("config", "load", said, ({flag: even[-1] * (facts.spread.tensor // parts)},))
    return None


def _divided_tokens(asked: Asked, facts: Facts) -> Refusal | None:
    """
    Return the refusal of a decode context parallel size that does not divide the devices with the same KV heads; None
    if it does (vLLM ``ModelConfig``, 0.11 to 0.32).
    """
    parts, whole = asked.flags.get("decode-context-parallel-size", 1), facts.whole
    if asked.engine != "vllm" or not isinstance(parts, int) or parts <= 1 or whole is None:
        return None
    tensor, heads = facts.spread.tensor, whole.kv_heads
    latent = any(isinstance(cache, Latent) for cache, _ in whole.attentions)
    most = tensor if latent else tensor // max(1, heads)
    alike = latent or not heads or (whole.heads // heads) % parts == 0
    if tensor % parts == 0 and parts <= most and alike:
        return None
    why = "" if latent else f": {tensor} devices hold {heads} KV heads"
    said = (
        f"--decode-context-parallel-size {parts} must divide --tensor-parallel-size {tensor} and be at most {most}{why}"
    )
    fits = [each for each in range(2, most + 1) if tensor % each == 0]
    cures = ({"decode-context-parallel-size": fits[-1] if fits else None},)
    return Refusal("config", "config", said, cures)


def _block_quantised(asked: Asked, facts: Facts) -> Refusal | None:
    """
    Return the refusal of experts in FP8 blocks if the devices do not divide them at block boundaries (vLLM
    ``layers/quantization/fp8.py``).
    """
    if not isinstance(facts.config, Mapping) or facts.spread.tensor == 1 or asked.flags.get("enable-expert-parallel"):
        return None
    text = facts.config.get("text_config", facts.config)
    held = facts.config.get("quantization_config")
    block = held.get("weight_block_size") if isinstance(held, Mapping) else None
    width = text.get("moe_intermediate_size") if isinstance(text, Mapping) else None
    if not (isinstance(block, list) and len(block) == 2 and all(isinstance(each, int) and each > 0 for each in block)):
        return None
    parts = facts.spread.experts
    ep = asked.flags.get("ep-size", 1)
    if asked.engine == "sglang" and isinstance(ep, int) and ep > 1:
        parts = max(1, parts // ep)
    if not isinstance(width, int) or (width % parts == 0 and width // parts % block[0] == 0):
        return None
    said = (
        f"an expert's width of {width}, divided by {parts} devices, is not a multiple of its FP8 blocks of {block[0]}"
    )
    flag = "tensor-parallel-size" if asked.engine == "vllm" else "tp-size"
    fits = [n for n in range(1, facts.spread.tensor) if width % n == 0 and width // n % block[0] == 0]
    whole: tuple[Mapping[str, Any], ...] = (
        ({"enable-expert-parallel": True},) if asked.engine == "vllm" else ({"ep-size": facts.spread.tensor},)
    )
    return Refusal("config", "load", said, (*whole, *({flag: n} for n in fits[-1:])))


def _batch(asked: Asked, facts: Facts) -> Refusal | None:
    tokens, requests = asked.flags.get("max-num-batched-tokens"), asked.flags.get("max-num-seqs")
    if asked.engine != "vllm" or not isinstance(tokens, int):
        return None
    if isinstance(requests, int) and tokens < requests:
        said = f"--max-num-batched-tokens {tokens} is below --max-num-seqs {requests}"
        return Refusal("bad-flag", "config", said, ({"max-num-batched-tokens": requests},))
    length = asked.length or facts.longest or 0
    if asked.flags.get("enable-chunked-prefill") is False and tokens < length:
        said = (
            f"--max-num-batched-tokens {tokens:,} is below the context of {length:,} tokens, and chunked prefill is off"
        )
        return Refusal(
            "bad-flag", "config", said, ({"enable-chunked-prefill": None}, {"max-num-batched-tokens": length})
        )
    return None


def _hierarchical(asked: Asked) -> Refusal | None:
    flags = asked.flags
    if asked.engine == "sglang" and flags.get("enable-hierarchical-cache") and flags.get("disable-radix-cache"):
        return Refusal(
            "bad-flag",
            "config",
            "--enable-hierarchical-cache needs the radix cache, and --disable-radix-cache turns the radix cache off",
            ({"disable-radix-cache": None}, {"enable-hierarchical-cache": None}),
        )
    return None


HYBRID_CONNECTORS: Mapping[str, str] = {
    **dict.fromkeys(
        """MultiConnector ExampleHiddenStatesConnector MooncakeConnector MooncakeStoreConnector SimpleCPUOffloadConnector
        OffloadingConnector DecodeBenchConnector NixlConnector NixlPullConnector NixlPushConnector""".split(),  # noqa: SIM905
        ">=0.13",
    ),
    **dict.fromkeys(("MoRIIOConnector", "HiSparseConnector"), ">=0.30"),
    "UMBPStoreConnector": ">=0.33",
}
"""
Connectors whose class declares ``SupportsHMA``, with the versions in which it does.

From the sources of 0.11.0, 0.12.0 (none does) and 0.25.0 to 0.33.0. The versions between them were not read.
"""


_OTHER_CONNECTORS = frozenset(
    """LMCacheConnector LMCacheConnectorV1 LMCacheMPConnector ExampleConnector SharedStorageConnector P2pNcclConnector
    FlexKVConnectorV1 HF3FSKVConnector""".split()  # noqa: SIM905
)
_ON_HOST = ("LMCache", "Offload", "FlexKV", "MooncakeStore", "UMBPStore")
"""Parts of the names of connectors that keep KV cache in host memory."""


def missed_connectors(asked: Asked) -> Iterator[str]:
    """Yield what is not counted of the KV connectors in the flags: host memory, and connectors of plugins."""
    for name in connectors(asked) if asked.flags.get("kv-transfer-config") else ():
        if name not in HYBRID_CONNECTORS and name not in _OTHER_CONNECTORS:
            yield f"--kv-transfer-config: {name} is not one of vLLM's own connectors; the memory that it uses is not known"
        elif any(part in name for part in _ON_HOST):
            yield f"--kv-transfer-config: {name} keeps KV cache in host memory, which is not counted"


def connectors(asked: Asked) -> tuple[str, ...]:
    """Return the names of the KV connectors in the flags, including those inside a MultiConnector."""
    if asked.engine != "vllm":
        return ()
    if asked.flags.get("kv-offloading-size"):
        return (
            "LMCacheConnectorV1" if asked.flags.get("kv-offloading-backend") == "lmcache" else "OffloadingConnector",
        )
    return tuple(_named(_json(str(asked.flags.get("kv-transfer-config", "")))))


def _named(table: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(name := table.get("kv_connector"), str):
        yield name
    extra = table.get("kv_connector_extra_config")
    inner = extra.get("connectors") if isinstance(extra, Mapping) else None
    for each in inner if isinstance(inner, list) else ():
        if isinstance(each, Mapping):
            yield from _named(each)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def without_hybrid(asked: Asked) -> str | None:
    """Return the connector that makes vLLM turn its hybrid KV-cache manager off; None if it stays on."""
    lacking = (name for name in connectors(asked) if not within(asked.version, HYBRID_CONNECTORS.get(name, "<0")))
    return next(lacking, None)


def _connector(asked: Asked, facts: Facts) -> Refusal | None:
    name, forced = without_hybrid(asked), asked.flags.get("disable-hybrid-kv-cache-manager") is False
    if name is None or not (forced or (facts.whole is not None and facts.whole.states)):
        return None
    said = (
        f"{name} does not support the hybrid KV-cache manager, which --no-disable-hybrid-kv-cache-manager turns on"
        if forced
        else f"{name} turns the hybrid KV-cache manager off, and layers that keep a state need this manager"
    )
    cures = ({"disable-hybrid-kv-cache-manager": None},) if forced else ()
    return Refusal("config", "kv_cache", said, (*cures, {"kv-transfer-config": None}))


_PREDICT_MORE = (
    *(
        "deepseek",
        "glm",
        "kimi",
        "mimo",
        "ernie4_5",
        "nemotron_h",
        "exaone",
        "qwen3_next",
        "qwen3_5",
        "qwen4",
        "longcat",
        "dots",
    ),
    *("bailing", "minimax_m3", "pangu", "step", "hy_", "gemma4", "inkling", "interns2"),
)
"""Beginnings of the model types for which vLLM 0.32 can draft with layers of the model (``config/speculative.py``)."""


def _own_layers(asked: Asked, facts: Facts) -> Refusal | None:
    """Return the refusal to draft with layers for multi-token prediction that the model lacks; None if it has them."""
    told = speculative.config(asked.flags) if asked.engine == "vllm" else {}
    if "mtp" not in speculative.method(told) or told.get("model") or not isinstance(facts.config, Mapping):
        return None
    text = facts.config.get("text_config")
    parts = [facts.config, *([text] if isinstance(text, Mapping) else [])]
    if any(("mtp" in str(key) or "nextn" in str(key)) and value for part in parts for key, value in part.items()):
        return None
    types = [str(part.get("model_type")) for part in parts]
    if not any(types) or any(each.startswith(_PREDICT_MORE) for each in types):
        return None
    said = f"--speculative-config names the method mtp, but a model of type {types[0]} has no layers for multi-token prediction"
    return Refusal("bad-flag", "config", said, ({"speculative-config": None},))


def _architecture(asked: Asked, facts: Facts) -> Refusal | None:
    found = classes.lacking(asked, facts.whole, facts.kind)
    if found is None or not found.certain:
        return None
    return Refusal("model-unsupported", found.phase, found.said, advice=found.advice)


def _combination(asked: Asked, facts: Facts) -> Refusal | None:
    found = combinations.refused(asked, facts.kind)
    if found is None:
        return None
    said, flags = found
    return Refusal("backend-unavailable", "config", said, tuple({flag: None} for flag in flags))


_FLAG_CHECKS: tuple[Callable[[Asked], Refusal | None], ...] = (_sizes, _shares, _hierarchical)
"""Checks that need only the flags."""
_CHECKS: tuple[Callable[[Asked, Facts], Refusal | None], ...] = (
    _architecture,
    _positions,
    _devices,
    _heads,
    _divided_tokens,
    _batch,
    _combination,
    _block_quantised,
    _connector,
    _own_layers,
)
