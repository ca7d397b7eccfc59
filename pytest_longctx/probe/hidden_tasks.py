"""
Seven of RULER's tasks with provable answers, in the probe's words: facts in noise, in random filler and among other
facts.

A fact "key i carries value j" is one token, and the prompt ends with the question for a key. The other tasks have no
provable answer: attention mixes several values of one key, and the probe does not know variables, frequencies or
documents.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from pytest_longctx.errors import PromptError, unknown
from pytest_longctx.probe import codes, registry
from pytest_longctx.probe.codes import KEYS, VALUES
from pytest_longctx.probe.questions import planted_in
from pytest_longctx.prompts import Prompt
from pytest_longctx.prompts.ruler.build import Posed
from pytest_longctx.prompts.ruler.tasks import TASKS, Task

_REPEATED_TOKENS: Final = 20
"""Length of the repeated noise, about as published."""

PROVABLE: Final[Mapping[str, Task]] = MappingProxyType(
    {name: task for name, task in TASKS.items() if task.kind == "niah" and task.value_count == 1}
)
"""The tasks with a provable answer."""


def pose(name: str, filler: Prompt, make: str | None) -> Posed:
    """
    Return the task *name* in a copy of *filler*, for the probe *make*, which must have full attention.

    The answer is one word for each requested key, and each word asks for the next key. Raises `PromptError`.
    """
    if name not in PROVABLE:
        raise PromptError(f"{unknown('task with a provable answer', name, PROVABLE)}")
    if make in registry.FAMILIES:
        raise PromptError(f"{make}: RULER's tasks need a probe with full attention, such as probe-llama4")
    task, tokens = PROVABLE[name], len(filler)
    if tokens < 2 * KEYS:
        raise PromptError(f"a task of {tokens:,} tokens was requested; the probe needs at least {2 * KEYS}")
    rng = np.random.Generator(np.random.PCG64([tokens, *(int(each) for each in filler.ids[:16])]))
    first = int(rng.integers(KEYS - task.query_count + 1))
    asked = [first + each for each in range(task.query_count)]
    others = rng.permutation([key for key in range(KEYS) if key not in asked])
    keys = [*asked, *(int(key) for key in others[: task.key_count - task.query_count])]
    places = rng.choice(tokens - 1, len(keys), replace=False)
    values = rng.integers(0, VALUES, len(keys))
    around = _around(task, filler, others, rng)
    planted = {
        int(place): codes.needle(key, int(value)) for place, key, value in zip(places, keys, values, strict=True)
    }
    prompt = planted_in(around, planted, codes.ASK + first, f"RULER's {name}")
    words = codes.words()
    expected = tuple(words[codes.answer(key, int(values[at]))] for at, key in enumerate(asked))
    depths = tuple(sorted(int(place) / tokens for place in places))
    return Posed(task, prompt, expected, depths)


def _around(task: Task, filler: Prompt, others: np.ndarray, rng: np.random.Generator) -> Prompt:
    """
    Return the tokens around the facts: repeated tokens, the filler, or facts about *others*, keys that are not
    requested.
    """
    if task.hay == "repeat":
        ids = np.resize(filler.ids[:_REPEATED_TOKENS], len(filler))
    elif task.hay == "needle":
        about, values = rng.choice(others, len(filler)), rng.integers(0, VALUES, len(filler))
        ids = (codes.NEEDLE + about * VALUES + values).astype(np.uint32)
    else:
        return filler
    return Prompt(ids, filler.seed, filler.key)
