"""Prompts as token ids and JSON, and groups of prompts with a common prefix."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pytest_longctx.errors import PromptError

Ids = npt.NDArray[np.uint32]

_CHUNK_TOKENS = 1 << 20
LONGEST_TOKENS = 1_000_000_000
"""Maximum length of a prompt, a hundred times the context of current engines. Its ids take 4 GB."""


COMPLETIONS = "/v1/completions"


class Sendable(Protocol):
    """Interface of a prompt that a client can send: endpoint, length in tokens, and JSON."""

    path: ClassVar[str]
    member: ClassVar[str]
    """Name of the prompt's field in the request body."""

    def __len__(self) -> int: ...

    @property
    def json_bytes(self) -> int:
        """Total number of bytes that `json_chunks` yields for any prompt."""

    def json_chunks(self) -> Iterator[bytes]:
        """Yield the prompt as a JSON value, in pieces."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt of token ids, with their origin. Equal seed, key and length give equal ids on every machine."""

    path: ClassVar = COMPLETIONS
    member: ClassVar = "prompt"
    ids: Ids = field(repr=False)
    seed: int
    key: str

    def __len__(self) -> int:
        return int(self.ids.size)

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of the ids."""
        return hashlib.sha256(self.ids.astype("<u4", copy=False).tobytes()).hexdigest()[:12]

    def __repr__(self) -> str:
        return f"Prompt({len(self):,} tokens, seed {self.seed}, {self.key!r})"

    @property
    def json_bytes(self) -> int:
        """Total number of bytes that `json_chunks` yields for these token ids."""
        return len(self) * (len(str(int(self.ids.max()))) + 1) + 1

    def json_chunks(self) -> Iterator[bytes]:
        """Yield the ids as a JSON array, in pieces of about a million ids."""
        table = _decimal_table(int(self.ids.max()))
        yield b"["
        for start in range(0, len(self), _CHUNK_TOKENS):
            piece = table[self.ids[start : start + _CHUNK_TOKENS]].tobytes()
            yield piece if start + _CHUNK_TOKENS < len(self) else piece[:-1]
        yield b"]"


def _decimal_table(largest: int) -> npt.NDArray[np.bytes_]:
    """
    Return a table whose row i is the number i with a comma, left-padded to a fixed width with spaces, which JSON
    allows.
    """
    # Rounded up within the same number of digits, because a table for each prompt's largest id would cost more than the prompt.
    return _decimals(min(1 << largest.bit_length(), 10 ** len(str(largest))))


@lru_cache(maxsize=4)
def _decimals(count: int) -> npt.NDArray[np.bytes_]:
    width = len(str(count - 1))
    numbers = np.arange(count, dtype=np.uint32)
    rows = np.full((count, width + 1), ord(","), dtype=np.uint8)
    for place in range(width):
        digits = numbers // 10**place
        rows[:, width - 1 - place] = np.where((digits > 0) | (place == 0), digits % 10 + ord("0"), ord(" "))
    return rows.reshape(-1).view(f"S{width + 1}")


Draw = Callable[[int], Prompt]
"""Callable that returns a new prompt of the given length in tokens, such as a `PromptFactory`."""


def turns(draw: Draw, first: int, answer: int, new: int, count: int) -> Iterator[Prompt]:
    """
    Yield *count* turns of one conversation. Each contains the previous turn, *answer* tokens in place of its answer,
    and *new* tokens.

    Turn k (from 0) has first + k * (answer + new) tokens. Raises `PromptError`.
    """
    _fits(first + (count - 1) * (answer + new))
    prompt = draw(first)
    yield prompt
    for number in range(1, count):
        prompt = _longer(prompt, draw(answer + new), f"turn {number}")
        yield prompt


def users(draw: Draw, document: int, question: int, count: int) -> Iterator[Prompt]:
    """Yield *count* prompts of document + question tokens: the same document, each with a different question."""
    _fits(document + question)
    head = draw(document)
    for number in range(count):
        yield _longer(head, draw(question), f"user {number}")


def _longer(head: Prompt, tail: Prompt, name: str) -> Prompt:
    ids = np.concatenate((head.ids, tail.ids))
    ids.flags.writeable = False
    return Prompt(ids, head.seed, f"{tail.key}/{name}")


def _fits(tokens: int) -> None:
    if tokens > LONGEST_TOKENS:
        raise PromptError(f"prompts of {tokens:,} tokens would result; the maximum is {LONGEST_TOKENS:,}")
