"""Variables assigned to each other in repeated noise, and the question which of them share a value: ``vt``."""

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final

import numpy as np

from pytest_longctx.prompts.ruler import exact_length, insertion
from pytest_longctx.prompts.ruler.exact_length import Draft, Room
from pytest_longctx.prompts.ruler.niah import Written
from pytest_longctx.prompts.ruler.published_data import Material
from pytest_longctx.prompts.ruler.tasks import TRACKED_HOPS

_EXAMPLE_TOKENS: Final = 500
"""Published length in tokens of the worked example, with its answer."""

_EXAMPLE_STEP: Final = 5
"""Repetitions of the noise by which the example grows, as published."""

_LETTERS, _EXAMPLE_LETTERS = 5, 3
"""Letters of a variable's name, in the task and in its example."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Assignments in their order, the assigned variables, and their common value."""

    assignments: tuple[str, ...]
    names: tuple[str, ...]
    value: str


def draw(letters: int, rng: np.random.Generator) -> Chain:
    """Return a random chain: a variable with a value of five digits, and four variables, each assigned the previous one."""
    names = list[str]()
    while len(names) <= TRACKED_HOPS:
        name = "".join(ascii_uppercase[int(place)] for place in rng.integers(0, 26, letters))
        names += [] if name in names else [name]
    value = str(rng.integers(10_000, 99_999))
    first, *others = names
    copied = (f"VAR {name} = VAR {before}  " for name, before in zip(others, names, strict=False))
    return Chain((f"VAR {first} = {value} ", *copied), tuple(names), value)


def write(material: Material, room: Room, rng: np.random.Generator) -> Written:
    """Return the text of ``vt`` in *room*: a worked example, and the task. Raises `PromptError`."""
    chain = draw(_LETTERS, rng)
    head, tail = _framed(material, chain)
    head = f" {_example(material, room, rng)}\n\n\n\n{head}"

    def make(chars: int) -> Draft:
        return _noised(material, chain, chars, exact_length.enough(chars), rng)

    return Written(exact_length.cut(room, head, make, tail), chain.names)


def _framed(material: Material, chain: Chain) -> tuple[str, str]:
    template = material.templates["variable_tracking"].replace("{query}", chain.value)
    return insertion.split(template.replace("{num_v}", str(len(chain.names))))


def _noised(material: Material, chain: Chain, chars: int, made_chars: int, rng: np.random.Generator) -> Draft:
    """Return noise of *made_chars* characters with the chain in its first *chars*."""
    line = f"{material.noise}\n "
    count = max(len(chain.names), chars // len(line))
    places = sorted(int(each) for each in rng.choice(count, len(chain.names), replace=False))
    return insertion.in_lines(line, places, chain.assignments, made_chars)


def _example(material: Material, room: Room, rng: np.random.Generator) -> str:
    """
    Return the worked example: noise in steps of five lines, as much as fits in 500 tokens, or in a third of a shorter
    prompt.
    """
    chain = draw(_EXAMPLE_LETTERS, rng)
    head, tail = _framed(material, chain)
    line, most, found = len(material.noise) + 2, min(_EXAMPLE_TOKENS, room.tokens // 3), ""
    for count in range(_EXAMPLE_STEP, _EXAMPLE_TOKENS, _EXAMPLE_STEP):
        noise = _noised(material, chain, count * line, count * line - 1, rng).text.rstrip(" ")
        text = f"{head}{noise}{tail} {' '.join(chain.names)}"
        if found and room.vocabulary.count(text) > most:
            break
        found = text
    return found
