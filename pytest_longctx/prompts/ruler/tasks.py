"""The thirteen tasks of RULER as published: the hidden facts, the length of the answer, and the score."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["niah", "variable_tracking", "common_words_extraction", "freq_words_extraction", "qa"]
"""The name of a task's template in the published package."""

Drawn = Literal["words", "numbers", "uuids"]
"""Kind of a key or a value: an adjective and a noun, seven digits, or a random UUID."""

Hay = Literal["repeat", "essay", "needle"]
"""The text around the facts: five repeated sentences, essays, or facts about other keys."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, with the parameters of the published configuration (``synthetic.yaml``, 13 tasks)."""

    name: str
    kind: Kind
    output_tokens: int
    """Most tokens that a model may generate in the published evaluation."""
    scored: Literal["every", "any"]
    """The score of an answer: the share of the expected texts that it contains, or 1 if it contains any of them."""
    hay: Hay = "essay"
    keys: Drawn = "words"
    values: Drawn = "numbers"
    key_count: int = 1
    value_count: int = 1
    """Values of each key."""
    query_count: int = 1
    """Keys that are asked for."""
    questions: Literal["squad", "hotpotqa"] = "squad"


def _niah(
    name: str,
    hay: Hay,
    keys: Drawn = "words",
    values: Drawn = "numbers",
    *,
    key_count: int = 1,
    value_count: int = 1,
    query_count: int = 1,
) -> Task:
    return Task(name, "niah", 128, "every", hay, keys, values, key_count, value_count, query_count)


_ALL: Final = (
    _niah("niah_single_1", "repeat"),
    _niah("niah_single_2", "essay"),
    _niah("niah_single_3", "essay", values="uuids"),
    _niah("niah_multikey_1", "essay", key_count=4),
    _niah("niah_multikey_2", "needle"),
    _niah("niah_multikey_3", "needle", keys="uuids", values="uuids"),
    _niah("niah_multivalue", "essay", value_count=4),
    _niah("niah_multiquery", "essay", key_count=4, query_count=4),
    Task("vt", "variable_tracking", 30, "every"),
    Task("cwe", "common_words_extraction", 120, "every"),
    Task("fwe", "freq_words_extraction", 50, "every"),
    Task("qa_1", "qa", 32, "any", questions="squad"),
    Task("qa_2", "qa", 32, "any", questions="hotpotqa"),
)

TASKS: Final[Mapping[str, Task]] = MappingProxyType({each.name: each for each in _ALL})
"""The tasks by their published names."""

TRACKED_HOPS: Final = 4
"""Number of assignments after the first in the one chain of ``vt``."""

COMMON_WORDS: Final = 10
"""Words that ``cwe`` asks for."""

FREQUENT_WORDS: Final = 3
"""Words that ``fwe`` asks for."""

LONG_TOKENS: Final = 4096
"""
Length of prompt and answer together from which ``cwe`` repeats words 30 and 3 times, as published, and long sentences
are used.
"""
