"""
Text that re-encodes to an exact number of tokens: built in pieces, cut in a tail of two thousand characters, and proved once by
encoding the whole as a server does.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, product
from typing import ClassVar, Final

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.corpus import Source, too_short
from pytest_longctx.prompts.pieces import Piece, encoded
from pytest_longctx.prompts.token_ids import COMPLETIONS
from pytest_longctx.prompts.tokenizer import Vocabulary

_TAIL_CHARS: Final = 1024
_REACH_CHARS: Final = 64
_MARKS: Final = ("", ".", ",", "!", "?", ";", "1")
_JSON_CHARS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A prompt as text, for endpoints that take no ids; *tokens* is its proved length."""

    path: ClassVar = COMPLETIONS
    member: ClassVar = "prompt"
    text: str = field(repr=False)
    tokens: int
    seed: int
    key: str

    def __len__(self) -> int:
        return self.tokens

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def json_bytes(self) -> int:
        """How many bytes `json_chunks` yields in all."""
        return sum(len(chunk) for chunk in self.json_chunks())

    def json_chunks(self) -> Iterator[bytes]:
        """The text as a JSON string, in pieces of a million characters."""
        yield b'"'
        for start in range(0, len(self.text), _JSON_CHARS):
            yield json.dumps(self.text[start : start + _JSON_CHARS])[1:-1].encode()
        yield b'"'


def character_limit(vocabulary: Vocabulary, context: int) -> int:
    """Characters that a vLLM (0.32, renderers/params.py) of *context* input tokens takes; it refuses more untokenised."""
    return context * vocabulary.longest_token


def exact_text(
    vocabulary: Vocabulary,
    source: Source,
    tokens: int,
    *,
    opening: str = "",
    before: str = "",
    after: str = "",
    special: bool = True,
    context: int | None = None,
) -> str:
    """
    *opening* and text from *source* that come to exactly *tokens* tokens, *before* and *after* included.

    With *special*, what the tokenizer adds by itself is counted too, as ``/v1/completions`` does. *context* is the longest
    input of the server in tokens, where it is known. Raises `PromptError` that names the nearest length, where there is no
    such text.
    """
    body = tokens - (vocabulary.special if special else 0)
    least = vocabulary.count(before + after) + 1
    if body < least:
        raise PromptError(
            f"a text of {tokens:,} tokens was asked for; the nearest is about {tokens - body + least:,}: special tokens and "
            f"the frame around it take {tokens - body + least - 1:,}"
        )
    reach = body - vocabulary.count(after)
    done = list(encoded(vocabulary, chain((before + opening,), source.pieces()), reach))
    counted = sum(piece.ids.size for piece in done)
    if counted < reach:
        raise too_short(source, counted, reach)
    window = _back(vocabulary, done, reach)
    left = body - sum(piece.ids.size for piece in done)
    tail = _tail(vocabulary, window, after, left, tokens)
    whole = "".join(chain((piece.text for piece in done), (tail, after)))
    if context is not None and len(whole) > character_limit(vocabulary, context):
        raise PromptError(
            f"the text of {tokens:,} tokens has {len(whole):,} characters; a vLLM of {context:,} tokens refuses more than "
            f"{character_limit(vocabulary, context):,} ({vocabulary.longest_token} for each token, as many as the longest of "
            "its vocabulary has) before it tokenises them"
        )
    came = vocabulary.count(whole, special=special)
    if came != tokens:
        raise PromptError(
            f"a text of {tokens:,} tokens was asked for; encoded as a whole it is {came:,}, the nearest found"
        )
    return whole[len(before) : len(whole) - len(after)]


def _back(vocabulary: Vocabulary, done: list[Piece], reach: int) -> Piece:
    """Take the last piece from *done*, put back what of it is surely needed, and return the rest, which must be cut."""
    last = done.pop()
    reach -= sum(piece.ids.size for piece in done)
    fine = list(encoded(vocabulary, [last.text], last.ids.size, piece_chars=_TAIL_CHARS, skip=last.skip))
    while len(fine) > 2 and fine[0].ids.size + fine[1].ids.size < reach:
        reach -= fine[0].ids.size
        done.append(fine.pop(0))
    text = "".join(piece.text for piece in fine)[: 4 * _TAIL_CHARS]
    return Piece(text, fine[0].skip, fine[0].ids)


def _tail(vocabulary: Vocabulary, window: Piece, after: str, wanted: int, tokens: int) -> str:
    """The beginning of *window* that comes to *wanted* tokens with *after*; never one that ends in a space."""
    encoding = vocabulary.rust.encode(window.text[window.skip :], add_special_tokens=False)
    place = min(max(wanted - vocabulary.count(after), 1), len(encoding)) - 1
    guess = window.skip + encoding.token_to_chars(place)[1]
    near = range(max(window.skip + 1, guess - _REACH_CHARS), min(len(window.text), guess + _REACH_CHARS) + 1)
    ends = sorted((end for end in near if not window.text[end - 1].isspace()), key=lambda end: abs(end - guess))
    seen = set[int]()
    # A next letter may cost two tokens and leave a length out; a mark after an earlier one costs one.
    for mark, end in product(_MARKS, ends):
        came = vocabulary.count(window.text[window.skip : end] + mark + after)
        if came == wanted:
            return window.text[:end] + mark
        seen.add(came)
    nearest = min(seen, key=lambda came: abs(came - wanted), default=wanted)
    raise PromptError(
        f"no text of exactly {tokens:,} tokens can be made with this tokenizer and this source; "
        f"the nearest is {tokens + nearest - wanted:,}"
    )
