"""A model's tokenizer and a text to read with it; what is costly is kept on a shelf."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import chat, tokenizer
from pytest_longctx.prompts import text as prompt_text
from pytest_longctx.prompts.cache import Shelf, shelf
from pytest_longctx.prompts.corpus import Sentences, Source, too_short
from pytest_longctx.prompts.pieces import encoded
from pytest_longctx.prompts.token_ids import Ids
from pytest_longctx.prompts.tokenizer import Vocabulary


@dataclass(frozen=True, eq=False)
class Reader:
    """*where* is the model's folder or name, see `tokenizer.load`; *context* the server's longest input, where known."""

    where: str
    source: Source = field(default_factory=Sentences)
    context: int | None = None
    shelf: Shelf = field(default_factory=shelf)

    @cached_property
    def vocabulary(self) -> Vocabulary:
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

    def messages(self, rng: np.random.Generator, tokens: int, system: str) -> tuple[chat.Message, ...]:
        """Messages of exactly *tokens* tokens; see `chat.exact_messages`."""
        render = chat.renderer(self.where)
        return chat.exact_messages(
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
