"""JSON, counts and figures from a server, which may send anything: parse JSON strictly, and keep only valid numbers."""

import json
import math
from typing import Any, Final

from pytest_longctx import toml

_DIGITS: Final = 19
"""Digits of a 64-bit integer. Python refuses to parse more than 4,300, and a float holds at most 308."""
_LARGEST: Final = 2**53
"""Largest count. Doubles above this number are not exact."""


def json_of(text: str | bytes) -> Any:
    """
    Return the value of a server's JSON *text*. Raises `ValueError` for all wrong input.

    That includes input for which `json.loads` succeeds or raises something else: NaN, infinities, integers of more than
    19 digits, and nesting that is too deep.
    """
    try:
        found = json.loads(text, parse_int=_integer, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    toml.refuse_deep(found)
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise ValueError(f"JSON has an integer of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"JSON has a number that is not finite: {text[:20]}")
    return value


def count_of(value: object) -> int | None:
    """Return *value* if it is a count, an integer from 0 to 2^53. Return None, which means not observed, for all else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= _LARGEST else None


def figure_of(value: float | None) -> float | None:
    """Return *value* if it can be a counter or a gauge, finite and from 0 to 2^53; None for all else."""
    return value if value is not None and 0 <= value <= _LARGEST else None
