"""A tokenizer with a fixed vocabulary of its own: three letters, three digits, some whole words, single bytes."""

import re
from array import array
from collections.abc import Iterable
from functools import cache
from itertools import product
from string import ascii_lowercase
from typing import Final, NamedTuple, TypeAlias

Ids: TypeAlias = "array[int]"
"""Token ids, ``array("I")``: a prompt of a million tokens takes 4 MB."""

_WORDS: Final = (
    *("the", "of", "and", "to", "in", "is", "that", "for", "it", "with", "as", "was"),
    *("on", "be", "at", "by", "this", "have", "from", "or", "are", "not", "but", "which"),
)
_PIECE: Final = re.compile(
    rb" (?:%s)(?![a-z])| ?[A-Za-z][a-z]{0,2}|[0-9]{1,3}|[\x00-\xff]" % "|".join(_WORDS).encode(), re.DOTALL
)
SPECIAL: Final = (
    "<|start|>",
    "<|end|>",
    "<|system|>",
    "<|developer|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|eos|>",
)
"""Tokens that no text produces, at the end of the vocabulary."""


class Vocabulary(NamedTuple):
    """Every piece of text by its token id, and every token id by its piece."""

    pieces: tuple[bytes, ...]
    ids: dict[bytes, int]


@cache
def vocabulary() -> Vocabulary:
    """Return the tokenizer's vocabulary, which is made at the first use in some 30 ms."""
    pieces = [bytes((value,)) for value in range(256)]
    pieces += [f"{value:0{width}d}".encode() for width in (1, 2, 3) for value in range(10**width)]
    pieces += [f" {word}".encode() for word in _WORDS]
    syllables = ["".join(letters) for width in (1, 2, 3) for letters in product(ascii_lowercase, repeat=width)]
    for space, capital in product((False, True), repeat=2):
        pieces += [(" " * space + (part.capitalize() if capital else part)).encode() for part in syllables]
    ids = {piece: number for number, piece in enumerate(pieces)}
    for name in SPECIAL:
        pieces.append(b"")
        ids[name.encode()] = len(pieces) - 1
    return Vocabulary(tuple(pieces), ids)


def special(name: str) -> int:
    """Return the token id of the special token *name*."""
    return vocabulary().ids[name.encode()]


def encode(text: str) -> Ids:
    """
    Return the token ids of *text*, in which the name of a special token is plain text.

    >>> len(encode("The codes of the amber falcon are 4821937 and 15."))
    18
    """
    return array("I", map(vocabulary().ids.__getitem__, _PIECE.findall(text.encode("utf-8", "surrogatepass"))))


def decode(ids: Iterable[int]) -> str:
    """
    Return the text of the token *ids*; special tokens have none. Raises IndexError for an id outside the
    vocabulary.

    >>> decode(encode("Zürich: 4821937"))
    'Zürich: 4821937'
    """
    return b"".join(map(vocabulary().pieces.__getitem__, ids)).decode("utf-8", "replace")


def deltas(ids: Iterable[int]) -> list[str]:
    """Return the text that each token of *ids* adds; none while a character of several bytes is incomplete."""
    pieces, held, parts = vocabulary().pieces, b"", []
    for number in ids:
        held += pieces[number]
        try:
            parts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            parts.append("")
    return parts
