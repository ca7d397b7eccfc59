"""Where text comes from: sentences made on the spot, a vocabulary's own words, or a user's file."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import sentences
from pytest_longctx.prompts.tokenizer import Vocabulary

_READ_CHARS = 1 << 20


class Source(Protocol):
    """A text that can be read from its beginning any number of times."""

    @property
    def digest(self) -> str:
        """What tells this text from every other; the cache goes by it."""

    def pieces(self) -> Iterator[str]:
        """The text, in pieces of any size. Raises `PromptError`."""

    def opening(self, rng: np.random.Generator) -> str:
        """What stands before the text in one prompt, so that no two prompts begin alike."""


def _number(rng: np.random.Generator) -> str:
    """Twelve random digits: within the first 16 tokens even where each digit is a token of its own."""
    return "".join(str(digit) for digit in rng.integers(0, 10, size=12)) + ". "


@dataclass(frozen=True, slots=True)
class Sentences:
    """Generated sentences without end; the default."""

    seed: int = 0

    @property
    def digest(self) -> str:
        """The seed is all there is to know."""
        return f"sentences-1-{self.seed}"

    def pieces(self) -> Iterator[str]:
        """See `pytest_longctx.prompts.sentences`."""
        return sentences.endless(self.seed)

    def opening(self, rng: np.random.Generator) -> str:
        """Twelve digits."""
        return _number(rng)


@dataclass(frozen=True, slots=True)
class Words:
    """Random words out of *words* without end, for a made tokenizer that knows no English."""

    words: tuple[str, ...]
    seed: int = 0

    @classmethod
    def of(cls, vocabulary: Vocabulary, low: int, high: int) -> "Words":
        """The words that a made tokenizer has from id *low* on, *high* left out."""
        return cls(tuple(vocabulary.rust.id_to_token(each) for each in range(low, high)))

    @property
    def digest(self) -> str:
        """Of the words and the seed."""
        return hashlib.sha256(repr((self.words, self.seed)).encode()).hexdigest()

    def pieces(self) -> Iterator[str]:
        """4096 words at a time."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        while True:
            yield self._some(rng, 4096)

    def opening(self, rng: np.random.Generator) -> str:
        """Sixteen words."""
        return self._some(rng, 16)

    def _some(self, rng: np.random.Generator, count: int) -> str:
        return "".join(f"{self.words[place]} " for place in rng.integers(0, len(self.words), size=count))


@dataclass(frozen=True, slots=True)
class TextFile:
    """A user's own text in UTF-8. It is repeated only where *repeat* says so; otherwise its end is the end."""

    path: Path
    repeat: bool = False

    @property
    def digest(self) -> str:
        """Of what is in the file now. Raises `PromptError`."""
        try:
            with self.path.open("rb") as file:
                return f"{hashlib.file_digest(file, 'sha256').hexdigest()}{'-repeated' * self.repeat}"
        except OSError as problem:
            raise self._unreadable(problem) from None

    def pieces(self) -> Iterator[str]:
        """A million characters at a time. Raises `PromptError` where the file is no text."""
        try:
            while True:
                with self.path.open(encoding="utf-8") as file:
                    piece = file.read(_READ_CHARS)
                    if not piece:
                        raise PromptError(f"the text {self.path} is empty")
                    while piece:
                        yield piece
                        piece = file.read(_READ_CHARS)
                if not self.repeat:
                    return
        except (OSError, UnicodeDecodeError) as problem:
            raise self._unreadable(problem) from None

    def opening(self, rng: np.random.Generator) -> str:
        """Twelve digits."""
        return _number(rng)

    def _unreadable(self, problem: Exception) -> PromptError:
        return PromptError(
            f"the text {self.path} cannot be read: {problem}\n  checked  {self.path.resolve()}\n"
            "  try      the path of a plain text file in UTF-8"
        )


def too_short(source: Source, had: int, wanted: int) -> PromptError:
    """The refusal of a text that ends too soon: it is never repeated on the quiet."""
    name = source.path if isinstance(source, TextFile) else type(source).__name__
    return PromptError(
        f"the text {name} holds {had:,} tokens; {wanted:,} were asked for\n"
        "  try      a longer text, or TextFile(path, repeat=True), which says that it may be repeated"
    )
