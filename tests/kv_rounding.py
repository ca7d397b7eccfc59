"""Numbers as a KV cache of a number format gives them back, for reference passes of the probe."""

from collections.abc import Mapping
from types import MappingProxyType

import ml_dtypes
import numpy as np
import numpy.typing as npt

from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.probe.codes import RUNGS

STORED: Mapping[str, npt.DTypeLike] = MappingProxyType(
    {
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "fp8_e4m3": ml_dtypes.float8_e4m3fn,
        "fp8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
        "fp8_e5m2": ml_dtypes.float8_e5m2,
    }
)
"""
Number formats of a KV cache, as engines name them. They have no scaling: without calibration, an engine's scale is 1.

On MI300, fp8_e4m3 is ``fp8_e4m3fnuz``, whose range ends at 240. Elsewhere the range ends at 448.
"""


def finite_limit(dtype: str) -> float:
    """
    Return the largest finite number of *dtype*. Raises `UsageError`.

    >>> finite_limit("fp8_e4m3"), finite_limit("fp8_e4m3fnuz"), finite_limit("fp8_e5m2")
    (448.0, 240.0, 57344.0)
    """
    if dtype not in STORED:
        raise UsageError(unknown("number format", dtype, STORED))
    return float(ml_dtypes.finfo(STORED[dtype]).max)


def stored(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """
    Return *values* as read back from a KV cache of *dtype*: saturated, as engines do, and rounded to nearest
    even. Raises `UsageError`.
    """
    limit = finite_limit(dtype)
    return np.clip(values, -limit, limit).astype(STORED[dtype]).astype(np.float32)


def bits_after_rounding(kv: str, activations: str = "bfloat16") -> int:
    """
    Return the mantissa bits of a key of the probe after rounding to the dtype *activations*, then to the dtype *kv* of the cache.

    It rounds the keys of the precision ladder, so the result is at most the number of rungs. Raises `UsageError`.
    """
    rungs = (1 + 2.0 ** -np.arange(1, RUNGS + 1)).astype(np.float32)
    return int(np.count_nonzero(stored(stored(rungs, activations), kv) != 1))
