"""
Questions for the probe: filler, needles placed at exact positions, and a question as the last token.

Keys and values are assigned to the positions at random, so that the answers jump back and forth through the context and no
value can be guessed from its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from pytest_longctx.errors import PromptError
from pytest_longctx.probe import codes
from pytest_longctx.probe.codes import FILLER_IDS, KEYS
from pytest_longctx.prompts import Ids, Prompt

SHORTEST_TOKENS: Final = 2
"""Minimum length of a question: one needle and the ask."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A needle in a prompt. *position* counts tokens from 0."""

    key: int
    value: int
    position: int


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A prompt and its expected answer."""

    prompt: Prompt
    needles: tuple[Needle, ...] = field(repr=False)
    """Needles by key, in the order in which they are asked for."""

    @property
    def output_tokens(self) -> int:
        """
        Number of tokens to request: one for each needle, and one for a key without a needle if the question has such a
        key.
        """
        return min(len(self.needles) + 1, KEYS)

    @property
    def answer(self) -> tuple[int, ...]:
        """Token ids of the correct answer."""
        right = [codes.answer(each.key, each.value) for each in self.needles]
        return (*right, codes.NONE + len(right))[: self.output_tokens]

    def depth(self, position: int) -> float:
        """Return a position as a share of the context, from 0 to less than 1."""
        return position / len(self.prompt)


Windows = Sequence[int | None]
"""For each key, how many tokens its layer sees, the asking one included; None for all of them."""

EVERYTHING: Final[Windows] = (None,) * KEYS


def plant(filler: Prompt, places: Sequence[int], windows: Windows = EVERYTHING) -> Question:
    """
    Return a copy of *filler* with a needle at each of *places* and the ask as its last token.

    *filler* consists of `FILLER_IDS` and is long enough for the places. There are 1 to 64 places, in any order, from 0
    to the length less 2. A key with a window gets a place that is still inside the window when the key is asked for.
    One such key gets the very first such place, if that is one of *places*. If the first key without a needle has a
    window, its needle is placed one token beyond the window, where a correct model does not see it. Raises
    `PromptError`.
    """
    check(filler, places, 1, KEYS)
    deal = _dealer(filler)
    keys, values = deal.permutation(len(places)), deal.permutation(codes.VALUES)
    if any(windows[key] for key in keys):
        keys = _within(keys, sorted(places), len(filler), windows, deal)
    needles = [Needle(int(key), int(values[key]), place) for key, place in zip(keys, sorted(places), strict=True)]
    planted = {each.position: codes.needle(each.key, each.value) for each in needles}
    if len(needles) < KEYS and (window := windows[len(needles)]):
        beyond = first_seen(len(filler), len(needles), window) - 1
        if beyond >= 0 and beyond not in planted:
            planted[beyond] = codes.needle(len(needles), int(values[len(needles)]))
    prompt = planted_in(filler, planted, codes.ASK, f"{len(needles)} needles")
    return Question(prompt, tuple(sorted(needles, key=lambda each: each.key)))


def first_seen(tokens: int, key: int, window: int) -> int:
    """
    Return the first position that a layer with *window* sees when *key* is asked for at the end of a prompt of
    *tokens*.
    """
    return tokens + key - window


def _within(
    keys: npt.NDArray[np.int64], places: Sequence[int], tokens: int, windows: Windows, deal: np.random.Generator
) -> npt.NDArray[np.int64]:
    """
    Return *keys* in an order in which the layer of each sees its place. Raises `PromptError`.

    The key that sees the fewest tokens chooses first. Any other key could take the same place, so an order is found if
    there is one.
    """
    seen = {int(key): first_seen(tokens, int(key), window) if (window := windows[key]) else 0 for key in keys}
    free, dealt, at_border = list(places), {}, False
    for key in sorted(seen, key=lambda key: (-seen[key], list(keys).index(key))):
        fitting = [place for place in free if place >= seen[key]]
        if not fitting:
            raise PromptError(
                f"no place is left for key {key}: its layer sees the last {windows[key]:,} tokens, from position "
                f"{seen[key]:,} on in a prompt of {tokens:,}; found {len(places)} places: {places!s:.80}\n"
                "  try      questions.spread with the same windows"
            )
        take_border = not at_border and seen[key] == fitting[0] > 0
        place = fitting[0] if take_border else fitting[int(deal.integers(len(fitting)))]
        at_border = at_border or take_border
        dealt[place] = key
        free.remove(place)
    return np.array([dealt[place] for place in places])


def spread(tokens: int, count: int = KEYS, windows: Windows = EVERYTHING) -> tuple[int, ...]:
    """
    Return *count* evenly spaced positions of needles in a prompt of *tokens*, from the first token to the last before
    the ask; fewer in a short prompt.

    Keys with a window all have the same one. Their positions are spread over what their layers see at the time of
    asking, from its very first token on.
    """
    keys = range(min(count, KEYS))
    windowed = {key: max(0, first_seen(tokens, key, window)) for key in keys if (window := windows[key])}
    # Where `plant` puts the needle that must not be seen.
    hidden = first_seen(tokens, count, window) - 1 if count < KEYS and (window := windows[count]) else -1
    even = (round(place) for place in np.linspace(0, tokens - 2, count - len(windowed)))
    chosen = {place + 1 if place == hidden else place for place in even}
    if windowed:
        farthest = max((each for each in windowed.values() if each != hidden), default=hidden + 1)
        free = [place for place in range(farthest, tokens - 1) if place not in chosen and place != hidden]
        chosen |= {free[round(i)] for i in np.linspace(0, len(free) - 1, min(len(windowed), len(free)))}
    return tuple(sorted(chosen))


def borders(tokens: int, size: int, count: int = KEYS) -> tuple[int, ...]:
    """
    Return up to *count* positions of needles on both sides of the borders between pieces of *size* tokens: blocks,
    chunks or batches of an engine.

    Returns up to *count* positions, an even number: the first token, the last before the ask, and borders spread over
    the prompt.
    """
    inner = range(size, tokens - 2, size)
    pairs = (count - 2) // 2
    chosen = inner if len(inner) <= pairs else [inner[i] for i in np.linspace(0, len(inner) - 1, pairs, dtype=int)]
    return tuple(sorted({0, tokens - 2, *chosen, *(border - 1 for border in chosen)}))


def planted_in(filler: Prompt, planted: dict[int, int], ask: int, what: str) -> Prompt:
    """Return a copy of *filler* with the ids *planted* by position, and *ask* as its last token."""
    ids: Ids = filler.ids.copy()
    ids[list(planted)] = list(planted.values())
    ids[-1] = ask
    ids.flags.writeable = False
    return Prompt(ids, filler.seed, f"{filler.key} with {what}")


def check(filler: Prompt, places: Sequence[int], least: int, most: int) -> None:
    """
    Check a question of the probe before it is made: *least* to *most* needles at different *places* of *filler*. Raises
    `PromptError`.

    The prompt must consist of filler tokens. Raises `PromptError`.
    """
    tokens = len(filler)
    low, high = FILLER_IDS
    if not least <= len(places) <= most or len(set(places)) != len(places):
        raise PromptError(
            f"{least} to {most} different places are needed in a prompt of {tokens:,} tokens; "
            f"found {len(set(places))}: {places!s:.80}"
        )
    if tokens < SHORTEST_TOKENS or min(places) < 0 or max(places) > tokens - 2:
        raise PromptError(
            f"a prompt of {tokens:,} tokens has places from 0 to {tokens - 2:,}, because the ask is last; "
            f"found {min(places):,} to {max(places):,}"
        )
    if int(filler.ids.min()) < low or int(filler.ids.max()) >= high:
        raise PromptError(
            f"the filler of a probe has ids from {low} to {high - 1}; found {filler.ids.min()} to {filler.ids.max()}\n"
            f"  try      ordinary_ids = [{low}, {high}] in the deployment's [model]"
        )


def _dealer(filler: Prompt) -> np.random.Generator:
    """Return a random generator seeded by the filler, so that equal prompts get equal needles."""
    return np.random.Generator(np.random.PCG64([len(filler), *(int(each) for each in filler.ids[:16])]))
