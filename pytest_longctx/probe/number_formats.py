"""
Number formats of a KV cache: the mantissa bits of a probe's key that each format keeps.

The probe measures these bits with its precision ladder. The elements of the key of rung k are 1 and 1 + 2^-k. A format with b
mantissa bits keeps the rungs from 1 to b, and rounds every element of the other keys to 1.
"""

import re
from types import MappingProxyType
from typing import Final

from pytest_longctx.probe.codes import RUNGS

_EXACT_BITS: Final = MappingProxyType(
    {"bfloat16": 7, "float16": 10, "float32": RUNGS, "fp8": 3, "fp8_e4m3": 3, "fp8_e5m2": 2}
)
_INTEGER: Final = re.compile(r"(?:int|[_k]|nvfp)(\d)(?:bit|v\d|_|$)")


def mantissa_bits(dtype: str) -> int | None:
    """
    Return the mantissa bits of a key that a KV cache of *dtype* keeps, at most the number of rungs; None if unknown.

    Integers of b bits scaled to a largest key of at least 1.5 have steps of 1.5 / (2^(b-1) - 1), so they keep b - 2 at
    most.

    >>> mantissa_bits("fp8_e4m3"), mantissa_bits("turboquant_k8v4"), mantissa_bits("ultraquant_4bit")
    (3, 6, 2)
    """
    named = _INTEGER.search(dtype)
    return _EXACT_BITS.get(dtype, int(named[1]) - 2 if named else None)
