"""
Vocabulary of the probe: the codes, the token ids, and the word of each id.

A needle states "key i carries value j". An ask means "which value does key i carry?" and is answered by one token: the
answer "i carried j", or "nothing carries i". Either answer also asks for key i + 1, so that one request asks for every key,
and a wrong answer does not hide the next one. Rungs are needles of another kind: see `pytest_longctx.probe.grading`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

WIDTH = 64
"""Number of elements of a code, and number of codes. Keys and values are rows of a Hadamard matrix."""

KEYS = VALUES = WIDTH
RUNGS = 11
"""
Number of rungs, numbered by their bits from 1. One more than the mantissa bits of FP16, so that the ladder contains a rung
that FP16 must break.
"""

SPECIAL = 16
RUNG = SPECIAL
ASK_RUNG = RUNG + RUNGS
KEPT = ASK_RUNG + RUNGS
ERASED = KEPT + RUNGS
ASK = 64
NONE = ASK + KEYS
NEEDLE = NONE + KEYS
ANSWER = NEEDLE + KEYS * VALUES
FILLER = ANSWER + KEYS * VALUES
VOCABULARY = 12_544
"""Vocabulary size, a multiple of 128, so that eight devices can share the rows."""

FILLER_IDS = (FILLER, VOCABULARY)
"""Range of the filler ids, end excluded."""


@cache
def hadamard() -> npt.NDArray[np.float32]:
    """Return the codes, one in each row, with elements +-1. Any two rows are orthogonal (Sylvester's construction)."""
    codes = np.ones((1, 1), np.float32)
    while len(codes) < WIDTH:
        codes = np.block([[codes, codes], [codes, -codes]])
    codes.flags.writeable = False
    return codes


def needle(key: int, value: int) -> int:
    """Return the id of the needle "*key* carries *value*"."""
    return NEEDLE + key * VALUES + value


def answer(key: int, value: int) -> int:
    """Return the id of the answer "*key* carried *value*"."""
    return ANSWER + key * VALUES + value


@cache
def words() -> tuple[str, ...]:
    """Return the word of each id of the probe's vocabulary. The words can be told apart even without spaces between them."""
    pairs = [f"{key:02d}.{value:02d}" for key in range(KEYS) for value in range(VALUES)]
    made = [f"<{i}>" for i in range(SPECIAL)]
    for kind in ("rung", "hold", "kept", "erased"):
        made += [f"{kind}{bits:02d}" for bits in range(1, RUNGS + 1)]
    made += [f"<{i}>" for i in range(len(made), ASK)]
    for kind in ("ask", "none"):
        made += [f"{kind}{i:02d}" for i in range(KEYS)]
    for kind in ("n", "a"):
        made += [f"{kind}{pair}" for pair in pairs]
    made += [f"f{i:05d}" for i in range(FILLER, VOCABULARY)]
    return tuple(made)


Kind = Literal["answer", "none", "kept", "erased"]

_SAID = re.compile(r"a(?P<key>\d\d)\.(?P<value>\d\d)|(?P<kind>none|kept|erased)(?P<index>\d\d)")


@dataclass(frozen=True, slots=True)
class Said:
    """One token of an answer. *index* is a key, or the bits of a rung of the precision ladder."""

    kind: Kind
    index: int
    value: int | None = None


def read(text: str) -> tuple[Said | None, ...]:
    """
    Return the answers about needles in the answered *text*, word by word; ``None`` for a word that is no answer.

    >>> read(" a00.17 none01")
    (Said(kind='answer', index=0, value=17), Said(kind='none', index=1, value=None))
    """
    return tuple(_read(text))


def read_ids(ids: Iterable[int]) -> tuple[Said | None, ...]:
    """Return the answers about needles in an answer of token ids, as `read`; None for an id that is no answer."""
    known = words()
    return read(" ".join(known[i] if 0 <= i < len(known) else "?" for i in ids))


def _read(text: str) -> Iterator[Said | None]:
    for word in text.split():
        end = 0
        for match in _SAID.finditer(word):
            if match.start() != end:
                yield None
            end = match.end()
            if match["key"]:
                yield Said("answer", int(match["key"]), int(match["value"]))
            else:
                kind: Kind = match["kind"]  # type: ignore[assignment]
                yield Said(kind, int(match["index"]))
        if end != len(word):
            yield None
