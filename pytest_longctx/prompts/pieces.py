"""
Tokenising in pieces of bounded size, so that no list of ten million integers is ever made.

A text is cut only where the two sides, encoded alone, give what they give together. That is tried on each border, a few
hundred characters to either side: what a pre-tokenizer splits by, and what merges, reaches no farther.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np

from pytest_longctx.prompts.token_ids import Ids
from pytest_longctx.prompts.tokenizer import Vocabulary

_PIECE_CHARS: Final = 1 << 16
_AROUND_CHARS: Final = 256
_TRIES: Final = 32
_AT_ONCE: Final = 16
"""Pieces that are encoded side by side, on as many cores as there are."""
_WORD_START = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text and its ids; those are of the text without its first *skip* characters."""

    text: str = field(repr=False)
    skip: int
    ids: Ids = field(repr=False)


def encoded(
    vocabulary: Vocabulary, chunks: Iterable[str], tokens: int, *, piece_chars: int | None = None, skip: int = 0
) -> Iterator[Piece]:
    """The text of *chunks* piece by piece, until there are *tokens* tokens or the text ends; no special tokens are added."""
    parts = _cut(vocabulary, chunks, piece_chars or min(_PIECE_CHARS, 4 * _AROUND_CHARS + 8 * tokens), skip)
    done, per_piece = 0, 1.0
    while done < tokens:
        # Not more than will be needed, by what a piece came to so far.
        ahead = int(min(_AT_ONCE, max(1.0, (tokens - done) / per_piece))) if done else 1
        group = list(islice(parts, ahead))
        if not group:
            return
        for (text, omit), ids in zip(group, _encode(vocabulary, group), strict=True):
            yield Piece(text, omit, ids)
            done += ids.size
            per_piece = max(1.0, ids.size)


def _encode(vocabulary: Vocabulary, group: list[tuple[str, int]]) -> list[Ids]:
    texts = [text[omit:] for text, omit in group]
    found = vocabulary.rust.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(each.ids, dtype=np.uint32) for each in found]


def _cut(vocabulary: Vocabulary, chunks: Iterable[str], piece_chars: int, skip: int) -> Iterator[tuple[str, int]]:
    rest, start = "", piece_chars
    for chunk in chunks:
        rest += chunk
        while len(rest) > start + piece_chars:
            found = border(vocabulary, rest, start)
            if found is None:  # no border here: the piece grows
                start += piece_chars
                continue
            at, omit = found
            yield rest[:at], skip
            rest, skip, start = rest[at:], omit, piece_chars
    if rest:
        yield rest, skip


def border(vocabulary: Vocabulary, text: str, start: int) -> tuple[int, int] | None:
    """
    The first place from *start* on where *text* may be cut, and how many characters to leave out after it.

    A tokenizer that puts a space before every text wants the border's own space left out. None where there is no such place
    among the first 32.
    """
    end = min(len(text) - 1, start + 4 * _AROUND_CHARS)
    words = [found.start() for found in _WORD_START.finditer(text, start, end)]
    for at in (words or list(range(start, end)))[:_TRIES]:
        left, right = text[max(0, at - _AROUND_CHARS) : at], text[at : at + _AROUND_CHARS]
        whole, alone = vocabulary.ids(left + right).tolist(), vocabulary.ids(left).tolist()
        for omit in (0, 1) if right.startswith(" ") else (0,):
            if alone + vocabulary.ids(right[omit:]).tolist() == whole:
                return at, omit
    return None
