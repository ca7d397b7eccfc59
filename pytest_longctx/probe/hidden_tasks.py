"""
Seven of RULER's tasks in the probe's words, where the right answer is provable: facts in noise, in random filler and among facts.

A fact "key i carries value j" is one token, and the prompt ends with the question for a key. The other tasks have no provable
answer: attention mixes several values of one key, and variables, frequencies and documents are not what the probe knows.
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
"""Length of the noise that is repeated, about that of the published one."""

PROVABLE: Final[Mapping[str, Task]] = MappingProxyType(
    {name: task for name, task in TASKS.items() if task.kind == "niah" and task.value_count == 1}
)
"""The tasks that a probe can be asked."""


def pose(name: str, filler: Prompt, make: str | None) -> Posed:
    """
    Return the task *name* in a copy of *filler*, for the probe *make*, which must be one with full attention.

    The answer is one word for each key that is asked for, and each word asks for the next key. Raises `PromptError`.
    """
    if name not in PROVABLE:
        raise PromptError(f"{unknown('task with a provable answer', name, PROVABLE)}")
    if make in registry.FAMILIES:
        raise PromptError(f"{make}: RULER's tasks are asked of the probes with full attention, such as probe-llama4")
    task, tokens = PROVABLE[name], len(filler)
    if tokens < 2 * KEYS:
        raise PromptError(f"a task of {tokens:,} tokens was requested of the probe; it needs {2 * KEYS}")
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
    """What surrounds the facts: repeated tokens, the filler, or facts about *others*, keys that are not asked for."""
    if task.hay == "repeat":
        ids = np.resize(filler.ids[:_REPEATED_TOKENS], len(filler))
    elif task.hay == "needle":
        about, values = rng.choice(others, len(filler)), rng.integers(0, VALUES, len(filler))
        ids = (codes.NEEDLE + about * VALUES + values).astype(np.uint32)
    else:
        return filler
    return Prompt(ids, filler.seed, filler.key)
