"""
Residual stream of the probe families: the meaning of its dimensions, and the embedding and output matrices.

It differs from `pytest_longctx.probe.weights` in one way: a layer writes what it fetches to separate fields (`GOT_KEY`,
`GOT_VALUE`), which no later layer reads. So every layer can answer for a share of the keys, and none sees what another
one fetched. Fetched codes are written at `WRITTEN` of their size. They change the norm of a token by less than 1 %,
whichever layers wrote.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import KEYS, VALUES, WIDTH
from pytest_longctx.probe.weights import NONE_READS, Matrix

HIDDEN: Final = 384
"""Hidden size of families without a fixed one, and the least size: 3 x 128."""

KEY, VALUE, ASK, GOT_KEY, GOT_VALUE = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(5))
ASKING: Final = slice(320, 336)
"""Dimensions set to 4 in every token that asks. The answer "none" reads it."""
FILL: Final = slice(336, 352)
CONSTANT: Final = slice(352, 368)
"""Dimensions set to 2 in every token."""
BALLAST: Final = slice(368, 384)
"""Dimensions that complete the norm of a token. No matrix reads it."""

WRITTEN: Final = 1 / 16
"""Size of a fetched code in the residual stream, relative to a code in the embedding."""


@cache
def embedding(hidden: int = HIDDEN) -> Matrix:
    """
    Return the embedding of all probe families, shape (vocabulary, *hidden*), *hidden* a multiple of 64 from 384. Each
    row has a mean square of exactly 1.
    """
    code, pairs = codes.hadamard(), np.arange(KEYS * VALUES)
    table = np.zeros((codes.VOCABULARY, hidden), np.float32)
    needles, answers = slice(codes.NEEDLE, codes.ANSWER), slice(codes.ANSWER, codes.FILLER)
    table[needles, KEY], table[needles, VALUE] = code[pairs // VALUES], code[pairs % VALUES]
    following = np.roll(code, -1, axis=0)
    table[codes.ASK : codes.NONE, ASK] = code
    table[codes.NONE : codes.NEEDLE, ASK] = following
    table[answers, ASK] = following[pairs // VALUES]
    for asking in (slice(codes.ASK, codes.NEEDLE), answers):
        table[asking, ASKING] = 4
    table[codes.FILLER :, FILL] = 4 * _signs()
    table[:, CONSTANT] = 2
    missing = np.rint((hidden - (table**2).sum(axis=1)) / 64)
    table[:, BALLAST] = 8 * (np.arange(BALLAST.stop - BALLAST.start) < missing[:, None])
    table.flags.writeable = False
    return table


@cache
def output(hidden: int = HIDDEN) -> Matrix:
    """
    Return the output matrix of all probe families, shape (vocabulary, *hidden*). Each answer reads its ask, and both
    fetched codes or neither.
    """
    code, pairs = codes.hadamard(), np.arange(KEYS * VALUES)
    table = np.zeros((codes.VOCABULARY, hidden), np.float32)
    answers, nones = slice(codes.ANSWER, codes.FILLER), slice(codes.NONE, codes.NEEDLE)
    table[answers, GOT_KEY] = code[pairs // VALUES] / WRITTEN
    table[answers, GOT_VALUE] = code[pairs % VALUES] / WRITTEN
    table[answers, ASK], table[nones, ASK] = code[pairs // VALUES], code
    table[nones, ASKING] = NONE_READS * WIDTH / (4 * (ASKING.stop - ASKING.start))
    # Filler predicts itself, so that prompts without an ask are answered with words too.
    table[codes.FILLER :, FILL] = _signs()
    table.flags.writeable = False
    return table


def _signs() -> Matrix:
    """Return the low bits of each filler word's number as +-1, for the embedding."""
    numbers: npt.NDArray[np.int64] = np.arange(codes.VOCABULARY - codes.FILLER)
    return (1 - 2 * (numbers[:, None] >> np.arange(FILL.stop - FILL.start) & 1)).astype(np.float32)
