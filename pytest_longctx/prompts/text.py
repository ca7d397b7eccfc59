"""Text and chat messages that encode to an exact number of tokens, tokenised in pieces of bounded size."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, product
from typing import ClassVar, Final

import numpy as np

from pytest_longctx.errors import NoExactTextError, PromptError
from pytest_longctx.prompts.corpus import Source, too_short
from pytest_longctx.prompts.token_ids import COMPLETIONS, Ids
from pytest_longctx.prompts.tokenizer import ModelTokenizer, needed

_PIECE_CHARS: Final = 1 << 16
_AROUND_CHARS: Final = 256
_TRIES: Final = 32
_AT_ONCE: Final = 16
"""Number of pieces encoded in parallel, on as many cores as there are."""
_WORD_START = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text with its ids, which exclude the first *skip* characters of the text."""

    text: str = field(repr=False)
    skip: int
    ids: Ids = field(repr=False)


def encoded(
    vocabulary: ModelTokenizer, chunks: Iterable[str], tokens: int, *, piece_chars: int | None = None, skip: int = 0
) -> Iterator[Piece]:
    """
    Yield the pieces of a prompt's text in *chunks* with their ids, up to *tokens* tokens or the end of the text,
    without special tokens.
    """
    parts = _cut(vocabulary, chunks, piece_chars or min(_PIECE_CHARS, 4 * _AROUND_CHARS + 8 * tokens), skip)
    done, per_piece = 0, 1.0
    while done < tokens:
        # Limit the batch to the expected need, estimated from the size of the pieces so far.
        ahead = int(min(_AT_ONCE, max(1.0, (tokens - done) / per_piece))) if done else 1
        group = list(islice(parts, ahead))
        if not group:
            return
        for (text, omit), ids in zip(group, _encode(vocabulary, group), strict=True):
            yield Piece(text, omit, ids)
            done += ids.size
            per_piece = max(1.0, ids.size)


def _encode(vocabulary: ModelTokenizer, group: list[tuple[str, int]]) -> list[Ids]:
    texts = [text[omit:] for text, omit in group]
    found = vocabulary.rust.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(each.ids, dtype=np.uint32) for each in found]


def _cut(vocabulary: ModelTokenizer, chunks: Iterable[str], piece_chars: int, skip: int) -> Iterator[tuple[str, int]]:
    rest, start = "", piece_chars
    for chunk in chunks:
        rest += chunk
        while len(rest) > start + piece_chars:
            found = border(vocabulary, rest, start)
            if found is None:  # no border found: extend the piece
                start += piece_chars
                continue
            at, omit = found
            yield rest[:at], skip
            rest, skip, start = rest[at:], omit, piece_chars
    if rest:
        yield rest, skip


def border(vocabulary: ModelTokenizer, text: str, start: int) -> tuple[int, int] | None:
    """
    Return the first place from *start* on at which a prompt's *text* can be cut, and the number of characters to omit
    there; None without one.

    If a tokenizer adds a space before every text, the space at the border must be omitted. Return ``None`` if none of
    the first 32 candidates is valid.
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


_TAIL_CHARS: Final = 1024
_REACH_CHARS: Final = 64
_MARKS: Final = ("", ".", ",", "!", "?", ";", "1", " 1", " 1,", " 1, 2")
"""
Ends of a text, tried in this order. The last ones add two tokens and more, for a length that only a line break would
reach.
"""
_JSON_CHARS: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A prompt as text, for endpoints that accept no token ids. *tokens* is its verified length."""

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
        """First 12 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def json_bytes(self) -> int:
        """Total number of bytes that `json_chunks` yields for this text prompt."""
        return sum(len(chunk) for chunk in self.json_chunks())

    def json_chunks(self) -> Iterator[bytes]:
        """Yield the text as a JSON string, in pieces of a million characters."""
        yield b'"'
        for start in range(0, len(self.text), _JSON_CHARS):
            yield json.dumps(self.text[start : start + _JSON_CHARS])[1:-1].encode()
        yield b'"'


def character_limit(vocabulary: ModelTokenizer, context: int) -> int:
    """
    Return vLLM's limit of characters (0.32, renderers/params.py) for *context* input tokens. The limit applies before
    tokenization.
    """
    return context * vocabulary.longest_token


def exact_text(
    vocabulary: ModelTokenizer,
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
    Return a text of *opening* and *source* with exactly *tokens* tokens, *before* and *after* included.

    With *special*, the tokens that the tokenizer adds are counted too, as ``/v1/completions`` does. *context* is the
    longest input of the server in tokens, if known. Raises `PromptError` with the nearest length if no such text
    exists.
    """
    body = tokens - (vocabulary.special if special else 0)
    least = vocabulary.count(before + after) + 1
    if body < least:
        raise PromptError(
            f"a text of {tokens:,} tokens was requested; the shortest possible is about {tokens - body + least:,}: special "
            f"tokens and the text before and after it take {tokens - body + least - 1:,}"
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
            f"the text of {tokens:,} tokens has {len(whole):,} characters; vLLM with max_model_len {context:,} refuses more than "
            f"{character_limit(vocabulary, context):,} ({vocabulary.longest_token} per token, the length of the longest "
            "token of the vocabulary) before it tokenises the text"
        )
    came = vocabulary.count(whole, special=special)
    if came != tokens:
        raise NoExactTextError(f"a text of {tokens:,} tokens was requested; the nearest text found encodes to {came:,}")
    return whole[len(before) : len(whole) - len(after)]


def _back(vocabulary: ModelTokenizer, done: list[Piece], reach: int) -> Piece:
    """
    Remove the last encoded piece from *done*, add the part of it that is certainly needed, and return the rest, which
    must be cut.
    """
    last = done.pop()
    reach -= sum(piece.ids.size for piece in done)
    fine = list(encoded(vocabulary, [last.text], last.ids.size, piece_chars=_TAIL_CHARS, skip=last.skip))
    while len(fine) > 2 and fine[0].ids.size + fine[1].ids.size < reach:
        reach -= fine[0].ids.size
        done.append(fine.pop(0))
    text = "".join(piece.text for piece in fine)[: 4 * _TAIL_CHARS]
    return Piece(text, fine[0].skip, fine[0].ids)


def _tail(vocabulary: ModelTokenizer, window: Piece, after: str, wanted: int, tokens: int) -> str:
    """
    Return the beginning of *window* that encodes to *wanted* tokens together with *after*. The beginning never ends
    with a space.
    """
    encoding = vocabulary.rust.encode(window.text[window.skip :], add_special_tokens=False)
    place = min(max(wanted - vocabulary.count(after), 1), len(encoding)) - 1
    guess = window.skip + encoding.token_to_chars(place)[1]
    near = range(max(window.skip + 1, guess - _REACH_CHARS), min(len(window.text), guess + _REACH_CHARS) + 1)
    ends = sorted((end for end in near if not window.text[end - 1].isspace()), key=lambda end: abs(end - guess))
    seen = set[int]()
    # One more letter can add two tokens and skip a length; a punctuation mark at an earlier end adds one.
    for mark, end in product(_MARKS, ends):
        came = vocabulary.count(window.text[window.skip : end] + mark + after)
        if came == wanted:
            return window.text[:end] + mark
        seen.add(came)
    nearest = min(seen, key=lambda came: abs(came - wanted), default=wanted)
    raise NoExactTextError(
        f"no text of exactly {tokens:,} tokens can be made with this tokenizer and this source; "
        f"the nearest is {tokens + nearest - wanted:,}"
    )


Message = dict[str, str]
Render = Callable[[list[Message]], str]
"""Chat messages as rendered for the model, including the generation prompt."""

_MARK: Final = "longctx stands here"


@dataclass(frozen=True, slots=True, eq=False)
class Chat:
    """Chat messages and their length in tokens, verified after rendering."""

    path: ClassVar = "/v1/chat/completions"
    member: ClassVar = "messages"
    messages: tuple[Message, ...] = field(repr=False)
    tokens: int
    seed: int
    key: str

    def __len__(self) -> int:
        return self.tokens

    @property
    def json_bytes(self) -> int:
        """Total number of bytes that `json_chunks` yields for these chat messages."""
        return sum(len(chunk) for chunk in self.json_chunks())

    def json_chunks(self) -> Iterator[bytes]:
        """Yield the messages as a JSON array."""
        yield json.dumps(self.messages).encode()


def renderer(where: str, *, download: bool = False) -> Render:
    """Return a function that renders messages with the chat template of the model at *where*. Raises `PromptError`."""
    try:
        tokenizer = needed("transformers").AutoTokenizer.from_pretrained(where, local_files_only=not download)
    except PromptError:
        raise
    except Exception as problem:  # noqa: BLE001 - it raises many kinds for a folder it cannot read
        raise PromptError(
            f"the chat template of {where} cannot be loaded: {str(problem).splitlines()[0]:.200}"
        ) from None
    if not tokenizer.chat_template:
        raise PromptError(
            f"the model at {where} has no chat template\n  try      prompts of text or ids, sent to /v1/completions"
        )

    def render(messages: list[Message]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return render


def frame(render: Render, head: list[Message]) -> tuple[str, str]:
    """
    Return the text before and after a user message that follows the messages *head*, as rendered.

    Raises `PromptError` for a template that changes the message.
    """
    before, mark, after = render([*head, {"role": "user", "content": _MARK}]).partition(_MARK)
    if not mark or _MARK in after:
        raise PromptError(
            "the chat template does not insert the user's message exactly once and unchanged, "
            "so a prompt of an exact length cannot be made"
        )
    return before, after


def exact_messages(
    vocabulary: ModelTokenizer,
    render: Render,
    source: Source,
    tokens: int,
    *,
    system: str = "",
    opening: str = "",
    context: int | None = None,
) -> tuple[Message, ...]:
    """
    Return one user message, after *system* if given, that renders to exactly *tokens* tokens.

    The length of the template is measured by rendering once. The result is verified like in `exact_text`. As in
    servers, no special token is added to a rendered template. Raises `PromptError`.
    """
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    before, after = frame(render, head)
    content = exact_text(
        vocabulary, source, tokens, opening=opening, before=before, after=after, special=False, context=context
    )
    messages = (*head, {"role": "user", "content": content})
    if render(list(messages)) != before + content + after:
        raise PromptError(
            "the chat template does not render every message in the same way, so a prompt of an exact length cannot be made"
        )
    return messages
