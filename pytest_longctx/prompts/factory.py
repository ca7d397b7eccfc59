"""Prompt factory of a test, prompt(10_000), prompt.natural("1M"), prompt.text("1M"), and the reader that tokenizes text."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import chat_needles, token_ids, tokenizer
from pytest_longctx.prompts import text as prompt_text
from pytest_longctx.prompts.cache import TokenCache, token_cache
from pytest_longctx.prompts.corpus import Sentences, Source, too_short
from pytest_longctx.prompts.needles import Haystack, Needle, hide
from pytest_longctx.prompts.ruler.build import Posed, build
from pytest_longctx.prompts.ruler.published_data import material
from pytest_longctx.prompts.text import Text, encoded
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Ids, Prompt
from pytest_longctx.prompts.tokenizer import ModelTokenizer
from pytest_longctx.units import tokens as token_count

_ORDINARY_IDS = (1000, 30_000)
"""The default of a deployment's ``[model]``."""

_SHOWN_CHARS: Final = 2000
"""Most characters of a RULER prompt, in which no token may be unknown."""


@dataclass(frozen=True, eq=False)
class Reader:
    """
    The tokenizer and the text source of a model.

    *where* is the folder or name of the model, see `tokenizer.load`. *context* is the longest input of the server, if
    known.
    """

    where: str
    source: Source = field(default_factory=Sentences)
    context: int | None = None
    cache: TokenCache = field(default_factory=token_cache)

    @cached_property
    def vocabulary(self) -> ModelTokenizer:
        """The tokenizer, loaded at its first use. Raises `PromptError`."""
        return tokenizer.load(self.where)

    def lead(self, rng: np.random.Generator) -> Ids:
        """Return BOS, if the tokenizer adds one, and an opening that is unique to this prompt."""
        return np.concatenate((self.vocabulary.lead, self.vocabulary.ids(self._opening(rng))))

    def body(self, tokens: int) -> Ids:
        """Return the first *tokens* ids of the source, which are equal for every prompt. Raises `PromptError`."""
        what: dict[str, str | int] = {"kind": "ids", "tokens": tokens, **self._origin}

        def build() -> np.ndarray:
            found = np.empty(tokens, dtype="<u4")
            had = 0
            for piece in encoded(self.vocabulary, self.source.pieces(), tokens):
                some = piece.ids[: tokens - had]
                found[had : had + some.size] = some
                had += some.size
            if had < tokens:
                raise too_short(self.source, had, tokens)
            return found.view(np.uint8)

        return self.cache.fetch(what, build).view("<u4")

    def text(self, rng: np.random.Generator, tokens: int) -> str:
        """Return a text of exactly *tokens* tokens; see `text.exact_text`."""
        opening = self._opening(rng)
        what: dict[str, str | int] = {"kind": "text", "opening": opening, "tokens": tokens, **self._origin}
        what["context"] = self.context or 0  # the character limit depends on the server
        return self._keep(
            what,
            lambda: prompt_text.exact_text(self.vocabulary, self.source, tokens, opening=opening, context=self.context),
        )

    def messages(self, rng: np.random.Generator, tokens: int, system: str) -> tuple[prompt_text.Message, ...]:
        """Return messages of exactly *tokens* tokens; see `text.exact_messages`."""
        render = prompt_text.renderer(self.where)
        return prompt_text.exact_messages(
            self.vocabulary,
            render,
            self.source,
            tokens,
            system=system,
            opening=self._opening(rng),
            context=self.context,
        )

    def needle_messages(
        self, rng: np.random.Generator, needle: Needle, tokens: int, depth: float
    ) -> tuple[tuple[prompt_text.Message, ...], float]:
        """Return a message of exactly *tokens* tokens that hides *needle*, and its depth; see `chat_needles.messages`."""
        render, opening = prompt_text.renderer(self.where), self._opening(rng)
        return chat_needles.messages(
            self.vocabulary, render, self.source, needle, tokens, depth, opening=opening, context=self.context
        )

    def ruler(
        self,
        rng: np.random.Generator,
        task: str,
        tokens: int,
        form: Literal["ids", "text", "chat"],
        origin: tuple[int, str],
    ) -> Posed:
        """Return a prompt of a RULER *task* with exactly *tokens* tokens. *origin* is the factory's seed and key."""
        render = prompt_text.renderer(self.where) if form == "chat" else None
        made = build(
            task, material(), self.vocabulary, tokens, rng, form, render=render, context=self.context, origin=origin
        )
        if self.vocabulary.unknown in self.vocabulary.ids(made.text[:_SHOWN_CHARS]):
            raise PromptError(f"the tokenizer of {self.where} does not know the English words of RULER's tasks")
        return made

    @property
    def _origin(self) -> dict[str, str]:
        return {"source": self.source.digest, "tokenizer": self.vocabulary.digest}

    def _opening(self, rng: np.random.Generator) -> str:
        opening = self.source.opening(rng)
        if self.vocabulary.unknown in self.vocabulary.ids(opening):
            raise PromptError(
                f"the tokenizer of {self.where} encodes {opening.strip()[:40]!r} as its unknown token, so all prompts would "
                "begin alike\n"
                "  try      corpus.Words with words of its vocabulary, or prompts of random ids"
            )
        return opening

    def _keep(self, what: dict[str, str | int], build: Callable[[], str]) -> str:
        found = self.cache.fetch(what, lambda: np.frombuffer(build().encode(), dtype=np.uint8))
        return found.tobytes().decode()


class PromptFactory:
    """
    Factory of prompts of an exact token count.

    The prompts depend on *seed* (of the run) and *key* (which distinguishes the questions). Each call of one factory
    returns a new prompt. Two prompts differ from their first block on, so a prefix cache cannot reuse one for the
    other. *reader* provides the tokenizer and a text, for the kinds that need them.
    """

    def __init__(
        self, seed: int, key: str, ordinary_ids: tuple[int, int], reader: Callable[[], Reader] | None = None
    ) -> None:
        self.seed, self.key, self.ordinary_ids, self._make_reader = seed, key, ordinary_ids, reader
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
        self._sequence = np.random.SeedSequence([seed, *(int(word) for word in words)])

    def __call__(self, tokens: int | str) -> Prompt:
        """
        Return a new prompt of exactly *tokens* random ordinary ids without BOS; *tokens* is 10000 or "128Ki". Raises
        `PromptError`.

        The probability that a prompt of 16 tokens or more repeats the first block of another is negligible (1 in 10^48
        for an ordinary range of a thousand ids).
        """
        length, rng = self._draw(tokens)
        low, high = self.ordinary_ids
        ids = rng.integers(low, high, size=length, dtype=np.uint32)
        ids.flags.writeable = False
        return Prompt(ids, self.seed, self.key)

    def constant(self, key: str) -> "PromptFactory":
        """Return a factory whose prompts depend only on *key*, so that they are equal in every run and for every question."""
        return PromptFactory(0, key, self.ordinary_ids, self._make_reader)

    def natural(self, tokens: int | str) -> Prompt:
        """Return exactly *tokens* ids of natural text: BOS if the tokenizer adds one, twelve digits, then the text."""
        length, rng = self._draw(tokens)
        reader = self._reader()
        ids = np.concatenate((reader.lead(rng), reader.body(length)))[:length]
        ids.flags.writeable = False
        return Prompt(ids, self.seed, self.key)

    def needle(self, tokens: int | str, depth: float) -> Haystack:
        """Return exactly *tokens* ids of natural text with a fact at *depth* (0 to 1) and the question at the end."""
        length, rng = self._draw(tokens)
        reader = self._reader()
        needle = Needle.draw(rng)
        lead, hay = reader.lead(rng), reader.body(length)
        ids, lies = hide(reader.vocabulary, needle, lead, hay, length, depth)
        ids.flags.writeable = False
        return Haystack(Prompt(ids, self.seed, self.key), needle, lies)

    def needle_chat(self, tokens: int | str, depth: float) -> Haystack:
        """Return a message that renders to exactly *tokens* tokens: a text with a fact at *depth* (0 to 1), and the question."""
        length, rng = self._draw(tokens)
        reader, needle = self._reader(), Needle.draw(rng)
        made, lies = reader.needle_messages(rng, needle, length, depth)
        return Haystack(prompt_text.Chat(made, length, self.seed, self.key), needle, lies)

    def ruler(self, task: str, tokens: int | str, form: Literal["ids", "text", "chat"] = "ids") -> Posed:
        """Return a new prompt of a RULER *task* with exactly *tokens* tokens; see `pytest_longctx.prompts.ruler`."""
        length, rng = self._draw(tokens)
        return self._reader().ruler(rng, task, length, form, (self.seed, self.key))

    def text(self, tokens: int | str, *, over: bool = False) -> Text:
        """
        Return a text that the model's tokenizer encodes to exactly *tokens* tokens, special tokens included, after a
        check of the length.

        With *over*, the server is expected to refuse the text, and the text may exceed its character limit.
        """
        length, rng = self._draw(tokens)
        reader = replace(self._reader(), context=None) if over else self._reader()
        return Text(reader.text(rng, length), length, self.seed, self.key)

    def written(self, text: str) -> Text:
        """Return *text* as a prompt, with its length in the tokens of the model's tokenizer, special tokens included."""
        return Text(text, self._reader().vocabulary.count(text, special=True), self.seed, self.key)

    def chat(self, tokens: int | str, system: str = "") -> prompt_text.Chat:
        """Return messages that the model's chat template renders to exactly *tokens* tokens."""
        length, rng = self._draw(tokens)
        return prompt_text.Chat(self._reader().messages(rng, length, system), length, self.seed, self.key)

    def turns(self, first: int, answer: int, new: int, count: int) -> Iterator[Prompt]:
        """Yield the turns of one conversation in random ids; see `token_ids.turns`."""
        return token_ids.turns(self, first, answer, new, count)

    def users(self, document: int, question: int, count: int) -> Iterator[Prompt]:
        """Yield questions of several users on one document in random ids; see `token_ids.users`."""
        return token_ids.users(self, document, question, count)

    def _draw(self, tokens: int | str) -> tuple[int, np.random.Generator]:
        if isinstance(tokens, bool) or not isinstance(tokens, int | str):
            raise PromptError(f"{tokens!r} must be a token count, for example 10000, 128Ki, 2Mi or 10M")
        try:
            length = token_count(tokens)
        except ValueError as problem:
            raise PromptError(str(problem)) from None
        if not 1 <= length <= LONGEST_TOKENS:
            raise PromptError(
                f"a prompt of {length:,} tokens was requested; the length must be from 1 to {LONGEST_TOKENS:,}"
            )
        (child,) = self._sequence.spawn(1)
        return length, np.random.Generator(np.random.PCG64(child))

    def _reader(self) -> Reader:
        if self._make_reader is None:
            raise PromptError("this factory has no tokenizer, so it makes only prompts of random token ids")
        return self._make_reader()


def tokens(count: int | str, seed: int = 0, ordinary_ids: tuple[int, int] = _ORDINARY_IDS) -> Prompt:
    """
    Return a prompt of exactly *count* random token ids; *count* is 10000 or "128Ki". Raises `PromptError`.

    The same *count*, *seed* and *ordinary_ids* give the same prompt on every machine. Another seed gives another
    prompt.
    """
    return PromptFactory(seed, "tokens", ordinary_ids)(count)
