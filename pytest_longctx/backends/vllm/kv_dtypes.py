"""
Bytes of a key, a value and a latent in the KV cache, by ``--kv-cache-dtype``.

Read in 0.32.0: ``utils/torch_utils.py`` (``nvfp4_kv_cache_full_dim``), ``v1/attention/backends/triton_attn.py``
(``customize_spec``: one FP32 scale for each head's key and value), ``model_executor/layers/attention/mla_attention.py``
(``get_kv_cache_spec``: 656 and 352 bytes of a packed latent with its rotary part and scales).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ValueSize:
    """Size of one head's vector: `value_bytes` for each value, and `scale_bytes` for the vector."""

    value_bytes: float
    scale_bytes: int = 0
    packed_bytes: int | None = None
    """Bytes of the whole vector if its layout is fixed."""

    def of(self, values: int) -> int:
        """Return the bytes of a cached vector of *values* numbers in this dtype."""
        return (
            self.packed_bytes if self.packed_bytes is not None else ceil(values * self.value_bytes) + self.scale_bytes
        )


PLAIN: Mapping[int, ValueSize] = MappingProxyType({size: ValueSize(size) for size in (1, 2, 4)})
PACKED_FP8_LATENT = ValueSize(1, packed_bytes=656)
"""``fp8_ds_mla``: 512 values in FP8, four FP32 scales, 64 rotary values in BF16."""

_KEYS: Mapping[str, ValueSize] = MappingProxyType(
    {
        "nvfp4": ValueSize(0.5 + 1 / 16),
        "int8_per_token_head": ValueSize(1, 4),
        "fp8_per_token_head": ValueSize(1, 4),
        "int4_per_token_head": ValueSize(0.5, 4),
        "bfloat16": PLAIN[2],
        "float16": PLAIN[2],
        "half": PLAIN[2],
        "float32": PLAIN[4],
    }
)
_LATENTS: Mapping[str, ValueSize] = MappingProxyType(
    {
        "fp8_ds_mla": PACKED_FP8_LATENT,
        "nvfp4_ds_mla": ValueSize(1, packed_bytes=352),
        "bfloat16": PLAIN[2],
        "float16": PLAIN[2],
        "float32": PLAIN[4],
    }
)
_FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")


def of_keys(dtype: str, model_bytes: int) -> ValueSize | None:
    """
    Return the size of keys and values for ``--kv-cache-dtype`` *dtype* and a model of *model_bytes* per value; None if
    unknown.
    """
    return PLAIN[model_bytes] if dtype == "auto" else PLAIN[1] if dtype in _FP8 else _KEYS.get(dtype)


def of_latents(dtype: str, model_bytes: int, *, packs_fp8: bool) -> ValueSize | None:
    """
    Return the size of MLA latents for ``--kv-cache-dtype`` *dtype*; None if unknown.

    *packs_fp8*: whether FP8 means ``fp8_ds_mla``, which the sparse kernels of Hopper need.
    """
    if dtype in _FP8:
        return PACKED_FP8_LATENT if packs_fp8 else PLAIN[1]
    return PLAIN[model_bytes] if dtype == "auto" else _LATENTS.get(dtype)
