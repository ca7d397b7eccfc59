"""The most frequent words of a numbered list, ``cwe``, and of a text of coded words, ``fwe``."""

import math
from string import ascii_lowercase
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_longctx.prompts.ruler import exact_length, insertion
from pytest_longctx.prompts.ruler.exact_length import Room, Units
from pytest_longctx.prompts.ruler.niah import Written
from pytest_longctx.prompts.ruler.published_data import Material
from pytest_longctx.prompts.ruler.tasks import COMMON_WORDS, FREQUENT_WORDS, LONG_TOKENS, TASKS

_CLOSING: Final = 512
"""Additional words from which some are chosen to make a length exact."""

_LEFT_UNITS: Final = 6
"""Units left out at the end of a list, to be chosen later."""

_REPLACEABLE: Final = 12
"""Words at the end of a list that are not common ones."""

_SAMPLED_NUMBERS: Final = 4096

_CODE_LETTERS: Final = 6
_DOTS: Final = "..."
"""The most frequent coded word, which the question tells the model to ignore."""

_ZETA_2: Final = math.pi**2 / 6
"""Sum of the published frequencies, which fall with the square of a word's rank."""


class _Often(NamedTuple):
    """Number of times that the common and the other words occur in list and worked example, and the words of the example."""

    often: int
    seldom: int
    example_often: int
    example_seldom: int
    example_words: int


_LONG: Final = _Often(30, 3, 10, 3, 40)
_SHORT: Final = _Often(6, 1, 3, 1, 20)


def write_common(material: Material, room: Room, rng: np.random.Generator) -> Written:
    """
    Return the text of ``cwe`` in *room*: a worked example, and the task.

    As in RULER, 10 words occur 30 times each and the other words 3 times each. In a short context, or if that list does
    not fit, they occur 6 times and once. If the word list is too short for the length, both numbers are
    multiplied. Raises `PromptError`.
    """
    before, after = insertion.split(material.templates["common_words_extraction"].replace("{query}", ""))
    words = [material.listed[place] for place in rng.permutation(len(material.listed))]
    long = room.tokens + TASKS["cwe"].output_tokens >= LONG_TOKENS
    for how in (_LONG, _SHORT) if long else (_SHORT,):
        example = [material.listed[place] for place in rng.permutation(len(material.listed))[: how.example_words]]
        shown = _numbered(_repeated(example, how.example_often, how.example_seldom, rng))
        asked = _numbered(example[:COMMON_WORDS])
        head = f"{before}{''.join(shown)[1:]}{after}{''.join(asked)[1:]}\n{before}"
        found = _composed(room, words, room.tokens - room.count(head + after), how)
        if found is not None:
            return _listed(room, words, *found, (head, after), rng)
    raise exact_length.too_small(room.tokens, f"{COMMON_WORDS} common words and as many others do not fit")


def _listed(
    room: Room, words: list[str], count: int, times: int, how: _Often, frame: tuple[str, str], rng: np.random.Generator
) -> Written:
    """
    Return the list of the first *count* of *words*, repeated as *how* says, with as many more words as the length
    needs.
    """
    used = words[:count]
    units = _numbered(_repeated(used, times * how.often, times * how.seldom, rng, _REPLACEABLE))
    rest = words[count:][:_CLOSING] or used[COMMON_WORDS:][:_CLOSING]
    head, after = frame
    text = exact_length.closed(room, head, Units(units, rest, lambda place, word: f" {place + 1}. {word}"), after, rng)
    if text is None:
        raise exact_length.too_small(room.tokens, "no list of words has exactly the requested length")
    return Written(text, tuple(used[:COMMON_WORDS]))


def _numbered(words: list[str]) -> list[str]:
    return [f" {place}. {word}" for place, word in enumerate(words, 1)]


def _repeated(words: list[str], often: int, seldom: int, rng: np.random.Generator, last_count: int = 0) -> list[str]:
    """
    Return the first ten words *often* times and the other words *seldom* times, shuffled. The last *last_count* are
    others.
    """
    common, others = words[:COMMON_WORDS], words[COMMON_WORDS:]
    last, others = others[:last_count], others * seldom
    del others[: len(last)]
    mixed = common * often + others
    return [mixed[place] for place in rng.permutation(len(mixed))] + last


def _composed(room: Room, words: list[str], spare: int, how: _Often) -> tuple[int, int, _Often] | None:
    """Return how many of *words* fit into *spare* tokens, and how many times as often as *how* says; None if too few fit."""
    of_words = exact_length.sizes(room.vocabulary, [f" {word}" for word in words])
    numbers = _number_sizes(room, max(2, spare // 2))
    of_numbers = np.concatenate(([0.0], np.cumsum(numbers)))
    common = float(of_words[:COMMON_WORDS].sum())
    others = np.concatenate(([0.0], np.cumsum(of_words[COMMON_WORDS:])))
    for times in range(1, max(2, spare)):
        counts = times * (how.often * COMMON_WORDS + how.seldom * np.arange(len(others)))
        inside = counts < len(of_numbers)
        needed = times * (how.often * common + how.seldom * others[inside]) + of_numbers[counts[inside]]
        fitting = int((needed <= spare - _LEFT_UNITS * float(of_words.mean() + numbers[-1])).sum())
        if fitting <= COMMON_WORDS:
            return None
        if fitting < len(others):  # else all words fit, and each must occur more often
            return COMMON_WORDS + fitting - 1, times, how
    return None


def _number_sizes(room: Room, most: int) -> npt.NDArray[np.float64]:
    """Return an estimate of the number of tokens of each number from 1 to *most*, from a sample."""
    every = np.arange(1, most + 1)
    some = np.unique(np.linspace(1, most, min(most, _SAMPLED_NUMBERS)).astype(int))
    return np.interp(every, some, exact_length.sizes(room.vocabulary, [f" {number}." for number in some]))


def write_coded(room: Room, material: Material, rng: np.random.Generator) -> Written:
    """
    Return the text of ``fwe`` in *room*: coded words whose frequency falls with the square of their rank.

    The most frequent is written as dots, and the next three are the answer. Raises `PromptError`.
    """
    before, after = insertion.split(material.templates["freq_words_extraction"].replace("{query}", ""))
    size = max(2 * FREQUENT_WORDS, (room.tokens + TASKS["fwe"].output_tokens) // 50)
    coded = _coded(size + _CLOSING, rng)
    vocabulary, unused = [_DOTS, *coded[1:size]], coded[size:]
    spare = room.tokens - room.count(before + after)
    counts = _counts(exact_length.sizes(room.vocabulary, [f" {word}" for word in vocabulary]), spare)
    if counts[FREQUENT_WORDS] <= counts[FREQUENT_WORDS + 1] + 1:
        raise exact_length.too_small(
            room.tokens, "the third and the fourth most frequent word would be equally frequent in this text"
        )
    mixed = [word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)]
    units = [f" {mixed[place]}" for place in rng.permutation(len(mixed))]
    given = Units(units, [_DOTS, *unused], lambda _, word: f" {word}")
    text = exact_length.closed(room, before, given, after, rng)
    if text is None:
        raise exact_length.too_small(room.tokens, "no text of coded words has exactly the requested length")
    return Written(text, tuple(vocabulary[1 : 1 + FREQUENT_WORDS]))


def _coded(count: int, rng: np.random.Generator) -> list[str]:
    """Return *count* different random words of six letters."""
    found = dict[str, None]()
    while len(found) < count:
        rows = rng.integers(0, 26, (count, _CODE_LETTERS))
        found |= dict.fromkeys("".join(ascii_lowercase[int(place)] for place in row) for row in rows)
    return list(found)[:count]


def _counts(of_words: npt.NDArray[np.float64], spare: int) -> list[int]:
    """Return how often each word occurs in the longest text of at most *spare* tokens, with *of_words* tokens per word."""
    shares = np.arange(1, len(of_words) + 1) ** -2.0 / _ZETA_2
    room, low, high = spare - _LEFT_UNITS * float(of_words.mean()), 0, max(1, spare)
    while low < high:
        middle = (low + high + 1) // 2
        if float((np.floor(middle * shares) * of_words).sum()) <= room:
            low = middle
        else:
            high = middle - 1
    return [int(each) for each in np.floor(low * shares)]
