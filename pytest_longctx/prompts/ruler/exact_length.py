"""
Fit the text of a task to an exact token count, in one of two ways: cut a draft, or choose among units.

`cut` ends running text (noise, essays, documents) at the exact count. `closed` ends a list of units (facts, words) with
units chosen by their token counts, so that no unit is cut. Both count the whole text once more, as a server does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.text import character_limit, exact_text
from pytest_longctx.prompts.tokenizer import ModelTokenizer

_SAMPLE_CHARS: Final = 16_384
_PIECE_CHARS: Final = 1 << 18
_TRIES: Final = 6
_SHORTER: Final = 0.97
"""Factor by which a draft is shortened if a part that must be kept would be cut."""
_DROPPED_UNITS: Final = 64
"""Units at the end of a list that may be replaced by others."""
_NEAR_UNITS: Final = 16
_SPARE_CHARS: Final = 4096


@dataclass(frozen=True, eq=False)
class Room:
    """
    The place of a task's text: *tokens* tokens, with the texts *before* and *after* that a chat template adds.

    With *special*, the tokens that the tokenizer adds to a text are counted. *context* is as in `text.exact_text`.
    """

    vocabulary: ModelTokenizer
    tokens: int
    before: str = ""
    after: str = ""
    special: bool = True
    context: int | None = None

    def count(self, text: str) -> int:
        """Return the number of tokens of *text* in this place."""
        return self.vocabulary.count(self.before + text + self.after, special=self.special)

    def check(self, text: str) -> None:
        """Raise `PromptError` if *text* has more characters than vLLM accepts."""
        most = character_limit(self.vocabulary, self.context) if self.context else None
        if most is not None and len(self.before) + len(text) + len(self.after) > most:
            raise PromptError(
                f"the text of {self.tokens:,} tokens has {len(text):,} characters; vLLM with max_model_len "
                f"{self.context:,} refuses more than {most:,} before it tokenises the text"
            )


class Draft(NamedTuple):
    """A text that is longer than needed. Its first *least* characters must be kept."""

    text: str
    least: int


@dataclass(frozen=True, slots=True)
class _Given:
    """A draft of a text as a source of text."""

    text: str = field(repr=False)
    digest: str = "a task's text"

    def pieces(self) -> Iterator[str]:
        """Yield the draft, a quarter of a million characters at a time."""
        for start in range(0, len(self.text), _PIECE_CHARS):
            yield self.text[start : start + _PIECE_CHARS]

    @staticmethod
    def opening(rng: np.random.Generator) -> str:  # noqa: ARG004 - a source has it; a task begins with its template
        """Return an empty opening, because the published prompts have none."""
        return ""


def too_small(tokens: int, why: str) -> PromptError:
    """Return the error for a length that is too short for a task."""
    return PromptError(f"a RULER prompt of {tokens:,} tokens was requested; {why}\n  try      a longer prompt")


def cut(room: Room, head: str, make: Callable[[int], Draft], tail: str) -> str:
    """
    Return *head*, a draft that is cut so that the whole has ``room.tokens`` tokens, and *tail*.

    ``make(chars)`` returns a draft for about *chars* characters. It is called again with a better number if a part that
    must be kept would be cut. Raises `PromptError`.
    """
    spare = room.tokens - room.count(head + tail)
    if spare < 1:
        raise too_small(room.tokens, f"the instruction and the question alone take {room.tokens - spare:,}")
    sample = make(_SAMPLE_CHARS).text[:_SAMPLE_CHARS]
    chars = round(spare * len(sample) / room.vocabulary.count(sample))
    for _ in range(_TRIES):
        draft = make(chars)
        filled = exact_text(
            room.vocabulary,
            _Given(draft.text),
            room.tokens,
            before=room.before + head,
            after=tail + room.after,
            special=room.special,
            context=room.context,
        )
        if filled.startswith(draft.text[: draft.least]):
            return head + filled + tail
        chars = round(_SHORTER * min(chars, len(filled)))
    raise too_small(room.tokens, f"the hidden facts need more than the {spare:,} tokens that are left for it")


def enough(chars: int) -> int:
    """Return the number of characters to draft for *chars* characters, because tokens per character vary along a text."""
    return chars + chars // 4 + _SPARE_CHARS


def sizes(vocabulary: ModelTokenizer, units: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return an estimate of the number of tokens that each of *units* adds to a text of them."""
    alone = np.array([len(each) for each in vocabulary.rust.encode_batch_fast(list(units), add_special_tokens=False)])
    few = min(len(units), _DROPPED_UNITS)
    joined = vocabulary.count("".join(units[:few]))
    return alone + (joined - int(alone[:few].sum())) / max(few, 1)


class Units(NamedTuple):
    """
    A list of units of text, separated by one character.

    *closing*: other units to end the list with. *written*: writes one of them at a place, which is the number of units
    before. *hidden*: a unit for a random place.
    """

    units: Sequence[str]
    closing: Sequence[str]
    written: Callable[[int, str], str]
    hidden: str = ""


def closed(room: Room, head: str, given: Units, tail: str, rng: np.random.Generator) -> str | None:
    """
    Return *head*, most of the units, some of the closing units, and *tail*, together ``room.tokens`` tokens.

    Return None if no choice of the closing units gives that count. Raises `PromptError`.
    """
    kept, by_size = list(given.units), _by_size(room.vocabulary, given)
    spare = room.tokens - room.count(head + _listed([*kept, given.hidden]) + tail)
    for _ in range(_DROPPED_UNITS):
        while spare < 0 and kept:
            spare += _last_size(room.vocabulary, kept)
            kept.pop()
        found = _chosen(room, head, kept, given, by_size, tail, spare, rng)
        if found is not None:
            every = [*kept, *found]
            every.insert(int(rng.integers(len(every) + 1)), given.hidden)
            text = head + _listed(every) + tail
            off = room.tokens - room.count(text)
            if not off:
                room.check(text)
                return text
            spare += off
        elif kept:
            spare += _last_size(room.vocabulary, kept)
            kept.pop()
        else:
            break
    return None


def _listed(units: Sequence[str]) -> str:
    """Return the text of the units, in which the first has no separator."""
    return "".join(units)[1:]


def _last_size(vocabulary: ModelTokenizer, units: list[str]) -> int:
    with_it, without = "".join(units[-_NEAR_UNITS:]), "".join(units[-_NEAR_UNITS:-1])
    return vocabulary.count(with_it) - vocabulary.count(without)


def _chosen(
    room: Room,
    head: str,
    kept: list[str],
    given: Units,
    by_size: dict[int, list[str]],
    tail: str,
    spare: int,
    rng: np.random.Generator,
) -> list[str] | None:
    """Return the closing units that add *spare* tokens between the *kept* units and *tail*; None if no choice does."""
    near = "".join(kept[-_NEAR_UNITS:]) or head
    base, goal = room.vocabulary.count(near + tail + room.after), spare
    for _ in range(_TRIES):
        picked = _picked(by_size, goal, rng)
        if picked is None:
            return None
        found = [given.written(len(kept) + place, each) for place, each in enumerate(picked)]
        came = room.vocabulary.count(near + "".join(found) + tail + room.after) - base
        if came == spare:
            return found
        goal += spare - came
    return None


def _picked(by_size: dict[int, list[str]], goal: int, rng: np.random.Generator) -> list[str] | None:
    """Return randomly chosen sizes that add up to *goal*; None if no sum does."""
    if goal < 0:
        return None
    reached = [True] + [False] * goal
    for total in range(1, goal + 1):
        reached[total] = any(size <= total and reached[total - size] for size in by_size)
    if not reached[goal]:
        return None
    picked = list[str]()
    while goal:
        fitting = [size for size in by_size if size <= goal and reached[goal - size]]
        size = int(rng.choice(fitting))
        picked.append(by_size[size][int(rng.integers(len(by_size[size])))])
        goal -= size
    return picked


def _by_size(vocabulary: ModelTokenizer, given: Units) -> dict[int, list[str]]:
    """Return the closing units by the number of tokens that each adds at the end."""
    units = [given.written(len(given.units), each) for each in given.closing]
    twice = vocabulary.rust.encode_batch_fast([each + each for each in units], add_special_tokens=False)
    once = vocabulary.rust.encode_batch_fast(units, add_special_tokens=False)
    found = dict[int, list[str]]()
    for choice, two, one in zip(given.closing, twice, once, strict=True):
        if len(two) > len(one):
            found.setdefault(len(two) - len(one), []).append(choice)
    return found
