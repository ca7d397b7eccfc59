"""Sources of prompt text: sentences generated from a seed, a user's file, random words."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.tokenizer import ModelTokenizer

_QUALITIES = """
old young tall quiet careful patient cheerful distant gentle honest clever tired famous humble restless silent
stern curious graceful modest proud brave weary sleepy nervous generous stubborn loyal grumpy playful solemn lucky
""".split()
_PEOPLE = """
baker sailor teacher painter farmer doctor miller weaver potter singer gardener carpenter fisherman printer clerk
shepherd blacksmith librarian surveyor tailor ferryman postman glazier cobbler brewer mason hunter pilot judge nurse
writer mapmaker beekeeper watchmaker merchant traveller neighbour stranger captain cook
""".split()
_MANNERS = """
slowly quietly often rarely gladly carefully suddenly finally secretly openly twice nearly proudly simply calmly
eagerly briefly kindly firmly almost
""".split()
_DEEDS = """
carried found sold repaired described painted borrowed forgot remembered opened measured counted hid noticed
returned admired cleaned copied ordered wrapped lifted moved kept showed
""".split()
_LOOKS = """
wooden copper narrow broken heavy painted hollow folded polished dusty crooked striped rusty silver woven round
carved faded plain bright leather velvet empty square
""".split()
_THINGS = """
chair basket window ladder kettle lamp saddle mirror drawer wheel bottle hammer blanket compass bucket anchor
clock ribbon candle barrel violin button shelf carpet letter coin whistle umbrella feather spoon needle rope
""".split()
_WHERE = """
near|behind|beside|above|below|outside|not far from|opposite|in front of|at the back of
""".strip().split("|")
_PLACES = """
harbour market station chapel orchard bridge tavern library stable quarry meadow courtyard lighthouse workshop
garden cellar tower mill school river forest well gate theatre
""".split()
_WHEN = """
before dawn|after the storm|in late summer|on a market day|during the long winter|at noon|when the bells rang|
after supper|while it rained|at the end of the week|in the first frost|as the tide went out|long ago|that evening|
without a word|for the second time|when nobody looked|to everyone's surprise|as usual|once more
""".replace("\n", "").split("|")

_SENTENCES = 4096


def _table(pattern: str, *columns: list[str]) -> np.ndarray:
    """Return every combination of *columns* in the pattern of a sentence, so that one lookup yields several words."""
    phrases = [""]
    for column in columns:
        phrases = [f"{phrase}|{word}" for phrase in phrases for word in column]
    return np.array([pattern.format(*phrase.split("|")[1:]) for phrase in phrases], dtype=object)


_PHRASES = (
    _table("The {} {} ", _QUALITIES, _PEOPLE),
    _table("{} {} ", _MANNERS, _DEEDS),
    _table("the {} {} ", _LOOKS, _THINGS),
    _table("{} the {} ", _WHERE, _PLACES),
    _table("{}. ", _WHEN),
)


def endless(seed: int) -> Iterator[str]:
    """Yield filler sentences without end, in pieces of about 300 kB. Each piece ends with a full stop and a space."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sizes = [table.size for table in _PHRASES]
    while True:
        rows = rng.integers(0, sizes, size=(_SENTENCES, len(sizes)))
        slots = np.empty(rows.shape, dtype=object)
        for column, table in enumerate(_PHRASES):
            slots[:, column] = table[rows[:, column]]
        yield "".join(slots.ravel().tolist())


_READ_CHARS = 1 << 20


class Source(Protocol):
    """A source of text that can be read from its beginning any number of times."""

    @property
    def digest(self) -> str:
        """Identifier of a source of text, used as the cache key."""

    def pieces(self) -> Iterator[str]:
        """Yield the source's text in pieces of any size. Raises `PromptError`."""

    def opening(self, rng: np.random.Generator) -> str:
        """Return the opening of one prompt, with which every prompt differs from its first tokens on."""


def _number(rng: np.random.Generator) -> str:
    """Return twelve random digits, which fit into the first 16 tokens even if each digit is one token."""
    return "".join(str(digit) for digit in rng.integers(0, 10, size=12)) + ". "


@dataclass(frozen=True, slots=True)
class Sentences:
    """Source of generated sentences without end; the default source."""

    seed: int = 0

    @property
    def digest(self) -> str:
        """Identifier of the generated text, which the seed determines."""
        return f"sentences-1-{self.seed}"

    def pieces(self) -> Iterator[str]:
        """Yield generated sentences without end."""
        return endless(self.seed)

    def opening(self, rng: np.random.Generator) -> str:
        """Return the twelve digits that open a prompt."""
        return _number(rng)


@dataclass(frozen=True, slots=True)
class Words:
    """Source of random words from *words* without end, for a synthetic tokenizer without English."""

    words: tuple[str, ...]
    seed: int = 0

    @classmethod
    def of(cls, vocabulary: ModelTokenizer, low: int, high: int) -> "Words":
        """Return a source of the words that a synthetic tokenizer has for the ids from *low* to *high*, *high* excluded."""
        return cls(tuple(vocabulary.rust.id_to_token(each) for each in range(low, high)))

    @property
    def digest(self) -> str:
        """Digest of the words and the seed."""
        return hashlib.sha256(repr((self.words, self.seed)).encode()).hexdigest()

    def pieces(self) -> Iterator[str]:
        """Yield the words of a synthetic tokenizer, 4,096 at a time."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        while True:
            yield self._some(rng, 4096)

    def opening(self, rng: np.random.Generator) -> str:
        """Return the sixteen words that open a prompt."""
        return self._some(rng, 16)

    def _some(self, rng: np.random.Generator, count: int) -> str:
        return "".join(f"{self.words[place]} " for place in rng.integers(0, len(self.words), size=count))


@dataclass(frozen=True, slots=True)
class TextFile:
    """A user's own text in UTF-8. With *repeat*, the text is repeated; otherwise, it ends with the file."""

    path: Path
    repeat: bool = False

    @property
    def digest(self) -> str:
        """Digest of the current content of the file. Raises `PromptError`."""
        try:
            with self.path.open("rb") as file:
                return f"{hashlib.file_digest(file, 'sha256').hexdigest()}{'-repeated' * self.repeat}"
        except OSError as problem:
            raise self._unreadable(problem) from None

    def pieces(self) -> Iterator[str]:
        """Yield the file's text, a million characters at a time. Raises `PromptError` if the file is not text."""
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
        """Return the twelve digits that open a prompt."""
        return _number(rng)

    def _unreadable(self, problem: Exception) -> PromptError:
        return PromptError(
            f"the text {self.path} cannot be read: {problem}\n  checked  {self.path.resolve()}\n"
            "  try      the path of a plain text file in UTF-8"
        )


def too_short(source: Source, had: int, wanted: int) -> PromptError:
    """Return the error for a corpus with too few tokens for the prompt."""
    name = source.path if isinstance(source, TextFile) else type(source).__name__
    return PromptError(
        f"the text {name} holds {had:,} tokens; {wanted:,} were asked for\n"
        "  try      a longer text, or TextFile(path, repeat=True) to repeat the text"
    )
