"""Parse and format token counts, sizes and times. 2Mi is not 2M."""

import re
from fractions import Fraction

Ki, Mi, Gi = 1024, 1024**2, 1024**3
GiB = Gi
"""Bytes in a GiB. Engines that print "GB" (SGLang) mean GiB too."""

_SCALES = {"": 1, "k": 1000, "m": 1_000_000, "ki": Ki, "mi": Mi}


def tokens(text: str | int) -> int:
    """
    Return the token count that the user typed. Raises ValueError for invalid text.

    >>> tokens("2Mi"), tokens("2M"), tokens("10_000")
    (2097152, 2000000, 10000)
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*([0-9][0-9_,]{0,30}(?:\.[0-9]{1,9})?)\s*([kKmM][iI]?|)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} must be a token count, for example 10000, 128Ki, 2Mi or 10M")
    number = Fraction(re.sub(r"[_,]", "", match[1])) * _SCALES[match[2].lower()]
    if number.denominator != 1:
        raise ValueError(f"{text!r} must be a whole number of tokens")
    return number.numerator


def duration(seconds: float) -> str:
    """
    Return a time, given in seconds, as text with its units.

    >>> duration(0.25), duration(12.3), duration(754)
    ('0.25 s', '12.3 s', '12 min 34 s')
    """
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def quantity(value: float, unit: str) -> str:
    """
    Return a measured number as text with its unit.

    >>> quantity(10_000_000.0, "tokens"), quantity(0.30500712, "s"), quantity(87.1489, "x")
    ('10,000,000 tokens', '0.305007 s', '87.1489x')
    """
    if unit == "no.":  # it names something, and counts nothing
        return f"{unit} {value:.0f}"
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"
    return f"{number}{unit}" if unit == "x" else f"{number} {unit}".rstrip()
