"""
Values of flags that some devices do not take.

From the checks of the engines: vLLM ``v1/attention/backends/*`` and ``platforms/cuda.py`` (0.25.1 to 0.33.0), SGLang
``server_args.py`` and ``arg_groups/attention_hook.py`` (0.5.16 to 0.5.23).
"""

from collections.abc import Iterator
from typing import NamedTuple

from pytest_longctx.plan.asked import Asked

_AMPERE = ("A100", "A800", "A10", "A40", "A30", "3090", "A6000")
_HOPPER = ("H100", "H200", "H20", "H800", "GH200")
_DATA_CENTRE = ("B200", "B300", "GB200", "GB300")
_BLACKWELL = (*_DATA_CENTRE, "5090", "RTXPRO", "GB10")
_BACKENDS = ("attention-backend", "prefill-attention-backend", "decode-attention-backend")


class Needs(NamedTuple):
    """Flags of an engine whose values that begin so need one of these kinds of device."""

    engine: str
    flags: tuple[str, ...]
    begins: tuple[str, ...]
    kinds: tuple[str, ...]
    called: str


NEEDS = (
    Needs("vllm", ("kv-cache-dtype",), ("nvfp4",), _BLACKWELL, "Blackwell"),
    Needs("vllm", _BACKENDS[:1], ("FLASHMLA", "FLASH_ATTN_MLA"), (*_HOPPER, *_DATA_CENTRE), "Hopper or Blackwell"),
    Needs("vllm", _BACKENDS[:1], ("CUTLASS_MLA",), _DATA_CENTRE, "Blackwell"),
    Needs("sglang", ("kv-cache-dtype",), ("fp4", "nvfp4"), _BLACKWELL, "Blackwell"),
    Needs("sglang", _BACKENDS, ("fa3",), (*_AMPERE, *_HOPPER), "Ampere or Hopper"),
    Needs("sglang", _BACKENDS, ("trtllm_mla", "cutlass_mla"), _DATA_CENTRE, "Blackwell"),
    Needs("sglang", _BACKENDS, ("flashmla",), (*_HOPPER, *_DATA_CENTRE), "Hopper or Blackwell"),
)


def refused(asked: Asked, kind: str) -> tuple[str, tuple[str, ...]] | None:
    """What *kind* of device does not take, and the flags of which one must go; None where it takes all, or is only a size."""
    return None if kind.endswith("GiB") else next(_refused(asked, kind), None)


def _refused(asked: Asked, kind: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for row in NEEDS:
        for flag in row.flags if row.engine == asked.engine else ():
            value = str(asked.flags.get(flag, ""))
            if value.startswith(row.begins) and not any(each == kind for each in row.kinds):
                yield f"--{flag} {value} needs {row.called}, and the devices are {kind}", (flag,)
    backend, dtype = (str(asked.flags.get(name, "")) for name in ("attention-backend", "kv-cache-dtype"))
    if asked.engine == "vllm" and backend == "FLASH_ATTN" and dtype.startswith("fp8") and kind not in _HOPPER:
        # FlashAttention reads an FP8 cache by its third version alone, which is for Hopper.
        said = (
            f"--attention-backend FLASH_ATTN takes --kv-cache-dtype {dtype} on Hopper alone, and the devices are {kind}"
        )
        yield said, ("attention-backend", "kv-cache-dtype")
