"""What a test holds: prompt(10_000), prompt.natural("1M"), prompt.text("1M"); and the reader that tokenises for it."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import text as prompt_text
from pytest_longctx.prompts import token_ids, tokenizer
from pytest_longctx.prompts.cache import TokenCache, token_cache
from pytest_longctx.prompts.corpus import Sentences, Source, too_short
from pytest_longctx.prompts.needles import Haystack, Needle, hide
from pytest_longctx.prompts.text import Text, encoded
from pytest_longctx.prompts.token_ids import LONGEST_TOKENS, Ids, Prompt
from pytest_longctx.prompts.tokenizer import ModelTokenizer
from pytest_longctx.units import tokens as token_count

_ORDINARY_IDS = (1000, 30_000)
"""The default of a deployment's ``[model]``."""


@dataclass(frozen=True, eq=False)
class Reader:
    """*where* is the model's folder or name, see `tokenizer.load`; *context* the server's longest input, where known."""

    where: str
    source: Source = field(default_factory=Sentences)
    context: int | None = None
    shelf: TokenCache = field(default_factory=token_cache)

    @cached_property
    def vocabulary(self) -> ModelTokenizer:
        """The tokenizer, read when it is first needed. Raises `PromptError`."""
        return tokenizer.load(self.where)

    def lead(self, rng: np.random.Generator) -> Ids:
        """BOS where the tokenizer puts one, and an opening that is this prompt's own."""
        return np.concatenate((self.vocabulary.lead, self.vocabulary.ids(self._opening(rng))))

    def body(self, tokens: int) -> Ids:
        """The first *tokens* ids of the source, the same for every prompt. Raises `PromptError`."""
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

        return self.shelf.fetch(what, build).view("<u4")

    def text(self, rng: np.random.Generator, tokens: int) -> str:
        """A text of exactly *tokens* tokens; see `text.exact_text`."""
        opening = self._opening(rng)
        what: dict[str, str | int] = {"kind": "text", "opening": opening, "tokens": tokens, **self._origin}
        what["context"] = self.context or 0  # what is too long for one server is not for another
        return self._keep(
            what,
            lambda: prompt_text.exact_text(self.vocabulary, self.source, tokens, opening=opening, context=self.context),
        )

    def messages(self, rng: np.random.Generator, tokens: int, system: str) -> tuple[prompt_text.Message, ...]:
        """Messages of exactly *tokens* tokens; see `text.exact_messages`."""
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

    @property
    def _origin(self) -> dict[str, str]:
        return {"source": self.source.digest, "tokenizer": self.vocabulary.digest}

    def _opening(self, rng: np.random.Generator) -> str:
        opening = self.source.opening(rng)
        if self.vocabulary.unknown in self.vocabulary.ids(opening):
            raise PromptError(
                f"the tokenizer of {self.where} does not know {opening.strip()[:40]!r}, so prompts would all look alike to it\n"
                "  try      corpus.Words with words of its vocabulary, or prompts of random ids"
            )
        return opening

    def _keep(self, what: dict[str, str | int], build: Callable[[], str]) -> str:
        found = self.shelf.fetch(what, lambda: np.frombuffer(build().encode(), dtype=np.uint8))
        return found.tobytes().decode()


class PromptFactory:
    """
    Makes prompts of exact length.

    *seed* and *key* decide them: a run's seed, and a key that tells one question from another. Each call of one factory
    gives a new prompt. Two prompts differ from their first block on, so no prefix cache can answer one with the other's.
    *reader* gives the model's tokenizer and a text, for the kinds that need them.
    """

    def __init__(
        self, seed: int, key: str, ordinary_ids: tuple[int, int], reader: Callable[[], Reader] | None = None
    ) -> None:
        self.seed, self.key, self.ordinary_ids, self._make_reader = seed, key, ordinary_ids, reader
        words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
        self._sequence = np.random.SeedSequence([seed, *(int(word) for word in words)])

    def __call__(self, tokens: int | str) -> Prompt:
        """
        A new prompt of exactly *tokens* random ordinary ids, written 10000 or "128Ki"; no BOS. Raises `PromptError`.

        A prompt of 16 tokens or more repeats another's first block about never (1 in 10^48 for an ordinary range of a
        thousand ids).
        """
        length, rng = self._draw(tokens)
        low, high = self.ordinary_ids
        ids = rng.integers(low, high, size=length, dtype=np.uint32)
        ids.flags.writeable = False
        return Prompt(ids, self.seed, self.key)

    def natural(self, tokens: int | str) -> Prompt:
        """Exactly *tokens* ids of natural text: BOS where the tokenizer puts one, twelve digits, then the text."""
        length, rng = self._draw(tokens)
        reader = self._reader()
        ids = np.concatenate((reader.lead(rng), reader.body(length)))[:length]
        ids.flags.writeable = False
        return Prompt(ids, self.seed, self.key)

    def needle(self, tokens: int | str, depth: float) -> Haystack:
        """Exactly *tokens* ids of natural text with a fact at *depth* (0 to 1) of it and its question at the end."""
        length, rng = self._draw(tokens)
        reader = self._reader()
        needle = Needle.draw(rng)
        lead, hay = reader.lead(rng), reader.body(length)
        ids, lies = hide(reader.vocabulary, needle, lead, hay, length, depth)
        ids.flags.writeable = False
        return Haystack(Prompt(ids, self.seed, self.key), needle, lies)

    def text(self, tokens: int | str, *, over: bool = False) -> Text:
        """
        A text that the model's tokenizer encodes to exactly *tokens* tokens, special ones included, as it is proved.

        *over*: it is meant to be refused, and may have more characters than the server takes.
        """
        length, rng = self._draw(tokens)
        reader = replace(self._reader(), context=None) if over else self._reader()
        return Text(reader.text(rng, length), length, self.seed, self.key)

    def chat(self, tokens: int | str, system: str = "") -> prompt_text.Chat:
        """Messages that the model's chat template renders to exactly *tokens* tokens."""
        length, rng = self._draw(tokens)
        return prompt_text.Chat(self._reader().messages(rng, length, system), length, self.seed, self.key)

    def turns(self, first: int, answer: int, new: int, count: int) -> Iterator[Prompt]:
        """Turns of one conversation in random ids; see `token_ids.turns`."""
        return token_ids.turns(self, first, answer, new, count)

    def users(self, document: int, question: int, count: int) -> Iterator[Prompt]:
        """Questions of several users on one document in random ids; see `token_ids.users`."""
        return token_ids.users(self, document, question, count)

    def _draw(self, tokens: int | str) -> tuple[int, np.random.Generator]:
        if isinstance(tokens, bool) or not isinstance(tokens, int | str):
            raise PromptError(f"{tokens!r} is not a token count; write 10000, 128Ki, 2Mi or 10M")
        try:
            length = token_count(tokens)
        except ValueError as problem:
            raise PromptError(str(problem)) from None
        if not 1 <= length <= LONGEST_TOKENS:
            raise PromptError(f"a prompt of {length:,} tokens was asked for; from 1 to {LONGEST_TOKENS:,} can be had")
        (child,) = self._sequence.spawn(1)
        return length, np.random.Generator(np.random.PCG64(child))

    def _reader(self) -> Reader:
        if self._make_reader is None:
            raise PromptError("this factory has no tokenizer: it was made for random ids alone")
        return self._make_reader()


def tokens(count: int | str, seed: int = 0, ordinary_ids: tuple[int, int] = _ORDINARY_IDS) -> Prompt:
    """
    A prompt of exactly *count* random token ids, written 10000 or "128Ki". Raises `PromptError`.

    The same *count*, *seed* and *ordinary_ids* give the same prompt on every machine; another seed gives another prompt.
    """
    return PromptFactory(seed, "tokens", ordinary_ids)(count)
