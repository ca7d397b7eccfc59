"""
Prompts of an exact token length, as token ids: exact by construction, because nothing is tokenised on the way.

A ten-million-token prompt is 40 MB of ids in one array and about as many bytes again in its request body. It is never a
list of Python integers, and never part of a repr, a log, a test id or a report.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pytest_longctx.errors import PromptError
from pytest_longctx.units import tokens as token_count

Ids = npt.NDArray[np.uint32]

_CHUNK_TOKENS = 1 << 20
LONGEST_TOKENS = 1_000_000_000
"""A hundred times what any engine serves today; its ids take 4 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Token ids and where they came from: the same seed, key and length give the same ids anywhere."""

    ids: Ids = field(repr=False)
    seed: int
    key: str

    def __len__(self) -> int:
        return int(self.ids.size)

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the ids."""
        return hashlib.sha256(self.ids.astype("<u4", copy=False).tobytes()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Prompt({len(self):,} tokens, seed {self.seed}, {self.key!r})"

    @property
    def json_bytes(self) -> int:
        """How many bytes `json_chunks` yields in all."""
        return len(self) * (len(str(int(self.ids.max()))) + 1) + 1

    def json_chunks(self) -> Iterator[bytes]:
        """The ids as a JSON array, in pieces of about a million ids, so that no piece is large."""
        table = _decimal_table(int(self.ids.max()))
        yield b"["
        for start in range(0, len(self), _CHUNK_TOKENS):
            piece = table[self.ids[start : start + _CHUNK_TOKENS]].tobytes()
            yield piece if start + _CHUNK_TOKENS < len(self) else piece[:-1]
        yield b"]"


@lru_cache(maxsize=4)
def _decimal_table(largest: int) -> npt.NDArray[np.bytes_]:
    """Row i holds i in decimal and a comma, padded on the left with spaces: JSON takes those, and rows stay one width."""
    width = len(str(largest)) + 1
    rows = b"".join(b"%*d," % (width - 1, i) for i in range(largest + 1))
    return np.frombuffer(rows, dtype=f"S{width}")


class PromptFactory:
    """
    Makes prompts of random ordinary ids.

    *seed* and *key* decide the ids: a run's seed, and a key that tells one question from another. Each call of one factory
    gives a new prompt. Two prompts differ from their first block on, so no prefix cache can answer one with the other's.
    """

    def __init__(self, seed: int, key: str, ordinary_ids: tuple[int, int]) -> None:
        self.seed, self.key, self.ordinary_ids = seed, key, ordinary_ids
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
        self._sequence = np.random.SeedSequence([seed, *(int(word) for word in words)])

    def __call__(self, tokens: int | str) -> Prompt:
        """
        A new prompt of exactly *tokens* ids, written 10000 or "128Ki". Raises `PromptError`.

        Random ids, so that a prompt of 16 tokens or more repeats another's first block about never (1 in 10^48 for an
        ordinary range of a thousand ids).
        """
        if isinstance(tokens, bool) or not isinstance(tokens, int | str):
            raise PromptError(f"{tokens!r} is not a token count; write 10000, 128Ki, 2Mi or 10M")
        try:
            length = token_count(tokens)
        except ValueError as problem:
            raise PromptError(str(problem)) from None
        if not 1 <= length <= LONGEST_TOKENS:
            raise PromptError(f"a prompt of {length:,} tokens was asked for; from 1 to {LONGEST_TOKENS:,} can be had")
        (child,) = self._sequence.spawn(1)
        low, high = self.ordinary_ids
        ids = np.random.Generator(np.random.PCG64(child)).integers(low, high, size=length, dtype=np.uint32)
        ids.flags.writeable = False
        return Prompt(ids, self.seed, self.key)
