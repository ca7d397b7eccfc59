"""
Values of flags that some devices do not support.

From the checks of the engines: vLLM ``supports_compute_capability`` of ``v1/attention/backends/mla/*`` (0.33.0) and
``fa_utils.py``; SGLang ``layers/attention/attention_registry.py`` and ``arg_groups/kv_cache_hook.py`` (0.5.23). Devices
of a generation that is not listed here are not checked.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pytest_longctx.plan.planned_server import Asked

GENERATIONS: Mapping[str, str] = {
    "V100": "Volta",
    "T4": "Turing",
    **dict.fromkeys(("A100", "A800", "A30", "A10", "A10G", "A40", "A6000", "RTX3090"), "Ampere"),
    **dict.fromkeys(("L4", "L40", "L40S", "RTX4090", "RTX6000Ada"), "Ada"),
    **dict.fromkeys(("H100", "H100NVL", "H200", "H20", "H800", "GH200"), "Hopper"),
    **dict.fromkeys(("B200", "B300", "GB200", "GB300"), "Blackwell"),
    **dict.fromkeys(("RTX5090", "RTXPRO6000", "GB10"), "Blackwell RTX"),
}
"""Generation of NVIDIA devices, by kind."""
_BACKENDS = ("attention-backend", "prefill-attention-backend", "decode-attention-backend")


class Needs(NamedTuple):
    """Values of an engine's flags that need a device of one of these generations."""

    engine: str
    flags: tuple[str, ...]
    values: tuple[str, ...]
    generations: tuple[str, ...]


_FROM_AMPERE = ("Ampere", "Ada", "Hopper", "Blackwell", "Blackwell RTX")
NEEDS = (
    Needs("vllm", ("dtype",), ("bfloat16",), _FROM_AMPERE),
    Needs("vllm", _BACKENDS[:1], ("FLASHMLA", "FLASHMLA_SPARSE"), ("Hopper", "Blackwell")),
    Needs("vllm", _BACKENDS[:1], ("FLASH_ATTN_MLA", "FLASH_ATTN_MLA_SPARSE"), ("Hopper",)),
    Needs("vllm", _BACKENDS[:1], ("CUTLASS_MLA", "FLASHINFER_MLA"), ("Blackwell",)),
    Needs("sglang", _BACKENDS, ("fa3",), ("Ampere", "Ada", "Hopper")),
    Needs("sglang", ("kv-cache-dtype",), ("nvfp4",), ("Blackwell", "Blackwell RTX")),
)


def refused(asked: Asked, kind: str) -> tuple[str, tuple[str, ...]] | None:
    """
    Return the combination of flag values that a device of *kind* does not support, and the flags of which one must be
    removed; None if there is none, or if the device is not checked.
    """
    generation = GENERATIONS.get(kind)
    return None if generation is None else next(_refused(asked, kind, generation), None)


def _refused(asked: Asked, kind: str, generation: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for row in NEEDS:
        for flag in row.flags if row.engine == asked.engine else ():
            value = str(asked.flags.get(flag, ""))
            if value in row.values and generation not in row.generations:
                needed = " or ".join(row.generations)
                yield f"--{flag} {value} needs a device of {needed}, and {kind} is {generation}", (flag,)
    backend, dtype = (str(asked.flags.get(name, "")) for name in ("attention-backend", "kv-cache-dtype"))
    if (
        asked.engine == "vllm"
        and backend == "FLASH_ATTN"
        and dtype.startswith("fp8")
        and generation in ("Ampere", "Ada")
    ):
        # FlashAttention reads an FP8 cache from its third version on, which starts at Hopper.
        said = (
            f"--attention-backend FLASH_ATTN takes --kv-cache-dtype {dtype} from Hopper on, and {kind} is {generation}"
        )
        yield said, ("attention-backend", "kv-cache-dtype")
