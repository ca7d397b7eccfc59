"""A fact hidden in a chat: one user message of text with the fact at a given depth, and the question at the end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.corpus import Source, too_short
from pytest_longctx.prompts.needles import Needle
from pytest_longctx.prompts.text import Message, Render, exact_text, frame
from pytest_longctx.prompts.tokenizer import ModelTokenizer

_NEAR_CHARS = 1024
"""Maximum distance in characters by which a fact is moved to the end of a sentence."""
_LEAST_REST = 32
"""Fewest tokens of text after a fact that is not at the end. With fewer, the exact length may not exist."""


@dataclass(frozen=True, slots=True)
class _From:
    """A source of text: *source* without its first *skip* characters."""

    source: Source
    skip: int

    @property
    def digest(self) -> str:
        """Identifier of this text: that of the source, and the place in the source where this text begins."""
        return f"{self.source.digest}-from-{self.skip}"

    def opening(self, rng: np.random.Generator) -> str:
        """Return the source's opening of one prompt."""
        return self.source.opening(rng)

    def pieces(self) -> Iterator[str]:
        """Yield the text of the source after the skipped characters."""
        left = self.skip
        for piece in self.source.pieces():
            yield piece[left:]
            left = max(0, left - len(piece))


def messages(
    vocabulary: ModelTokenizer,
    render: Render,
    source: Source,
    needle: Needle,
    tokens: int,
    depth: float,
    *,
    opening: str = "",
    context: int | None = None,
) -> tuple[tuple[Message, ...], float]:
    """
    Return one user message with *needle* near *depth* that renders to exactly *tokens* tokens, and the actual depth.

    The fact follows the nearest end of a sentence. The length is verified as in `text.exact_text`. Raises `PromptError`.
    """
    if not 0 <= depth <= 1:
        raise PromptError(
            f"a needle at depth {depth} was requested; the depth must be from 0 (the start) to 1 (the end)"
        )
    before, after = frame(render, [])
    asked = "\n\n" + needle.asked
    hay = tokens - sum(vocabulary.count(part) for part in (before + opening, needle.fact, asked + after))
    if hay < 1:
        raise PromptError(f"a haystack of {tokens:,} tokens was requested; the needle alone takes {tokens - hay:,}")
    first = "" if depth in (0, 1) else _beginning(vocabulary, source, round(depth * hay), hay - _LEAST_REST)
    fact = needle.fact if first or depth == 1 else needle.fact.lstrip() + " "
    head, tail = (opening, needle.fact + asked) if depth == 1 else (opening + first + fact, asked)
    filled = exact_text(
        vocabulary,
        _From(source, len(first)),
        tokens,
        before=before + head,
        after=tail + after,
        special=False,
        context=context,
    )
    made: tuple[Message, ...] = ({"role": "user", "content": head + filled + tail},)
    if render(list(made)) != before + head + filled + tail + after:
        raise PromptError(
            "the chat template does not render every message in the same way, so a prompt of an exact length cannot be made"
        )
    return made, 1.0 if depth == 1 else vocabulary.count(first) / hay


def _beginning(vocabulary: ModelTokenizer, source: Source, wanted: int, most: int) -> str:
    """
    Return the first *wanted* tokens of *source* up to the nearest end of a sentence, and at most *most* tokens (at
    least 1).

    Raises `PromptError`.
    """
    text, counted = "", 0
    most = max(1, most)
    wanted = min(max(1, wanted), most)
    for piece in source.pieces():
        text += piece[: 16 * (most - counted) + _NEAR_CHARS]
        encoding = vocabulary.rust.encode(text, add_special_tokens=False)
        counted = len(encoding)
        if counted > most:
            at, last = (encoding.token_to_chars(count - 1)[1] for count in (wanted, most))
            near = range(max(0, at - _NEAR_CHARS), min(at + _NEAR_CHARS, last))
            ends = [each + 1 for each in near if text[each : each + 2] == ". "]
            return text[: min(ends, key=lambda end: abs(end - at), default=at)]
    raise too_short(source, counted, most)
