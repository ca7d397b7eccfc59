"""Facts hidden in repeated noise, in essays or among other facts, and the question for some of them: eight tasks."""

import uuid
from dataclasses import dataclass
from typing import Final

import numpy as np

from pytest_longctx.prompts.ruler import exact_length, insertion
from pytest_longctx.prompts.ruler.exact_length import Draft, Room
from pytest_longctx.prompts.ruler.published_data import Material
from pytest_longctx.prompts.ruler.tasks import Drawn, Task

DEPTHS: Final = tuple(round(each) / 100 for each in np.linspace(0, 100, 40))
"""The forty published depths at which a fact may be hidden in an essay."""

_CLOSING: Final = 512
"""Additional facts from which some are chosen to make a length exact."""


@dataclass(frozen=True, slots=True)
class Written:
    """The text of a task, the expected texts, and the place of each hidden fact as a share of the context's length."""

    text: str
    expected: tuple[str, ...]
    depths: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Hidden sentences, and the requested keys with their values."""

    sentences: tuple[str, ...]
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    keys: frozenset[str]


def draw(task: Task, material: Material, rng: np.random.Generator) -> Facts:
    """Return random different keys with their values, and the keys to request."""
    keys = list[str]()
    while len(keys) < task.key_count:
        keys += [each for each in [drawn(task.keys, material, rng)] if each not in keys]
    values = {key: [drawn(task.values, material, rng) for _ in range(task.value_count)] for key in keys}
    sentences = [sentence(material, task.values, key, value) for key in keys for value in values[key]]
    asked = [keys[place] for place in rng.permutation(len(keys))[: task.query_count]]
    return Facts(
        tuple(sentences[place] for place in rng.permutation(len(sentences))),
        tuple(asked),
        tuple(value for key in asked for value in values[key]),
        frozenset(keys),
    )


def drawn(kind: Drawn, material: Material, rng: np.random.Generator) -> str:
    """Return a random adjective and noun, seven random digits, or a random UUID."""
    if kind == "numbers":
        return str(rng.integers(1_000_000, 10_000_000))
    if kind == "uuids":
        return str(uuid.UUID(bytes=rng.bytes(16), version=4))
    adjectives, nouns = material.adjectives, material.nouns
    return f"{adjectives[int(rng.integers(len(adjectives)))]}-{nouns[int(rng.integers(len(nouns)))]}"


def sentence(material: Material, kind: Drawn, key: str, value: str) -> str:
    """Return the published sentence of a fact."""
    return material.fact.replace("{type_needle_v}", kind).replace("{key}", key).replace("{value}", value)


def framed(task: Task, material: Material, asked: tuple[str, ...]) -> tuple[str, str]:
    """
    Return the template before and after the context. For one requested value, the template is in the singular, as
    published.
    """
    template, kind = material.templates["niah"], str(task.values)
    if task.query_count * task.value_count == 1:
        for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
            template = template.replace(plural, singular)
        kind = kind.removesuffix("s")
    names = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
    return insertion.split(template.replace("{type_needle_v}", kind).replace("{query}", names))


def write(task: Task, material: Material, room: Room, rng: np.random.Generator) -> Written:
    """Return the text of *task* in *room*. Raises `PromptError`."""
    facts = draw(task, material, rng)
    head, tail = framed(task, material, facts.asked)
    if task.hay == "needle":
        text = _among_facts(task, material, facts, room, head, tail, rng)
    elif task.hay == "repeat":
        text = _in_noise(material, facts, room, head, tail, rng)
    else:
        text = _in_essays(material, facts, room, head, tail, rng)
    context = len(text) - len(head) - len(tail)
    depths = ((text.index(each, len(head)) - len(head)) / context for each in facts.sentences)
    return Written(text, facts.answers, tuple(sorted(depths)))


def _in_noise(material: Material, facts: Facts, room: Room, head: str, tail: str, rng: np.random.Generator) -> str:
    """Return the facts hidden between repetitions of the five sentences."""
    line = f"{material.noise}\n"

    def make(chars: int) -> Draft:
        count = max(len(facts.sentences), chars // len(line))
        places = sorted(int(each) for each in rng.choice(count, len(facts.sentences), replace=False))
        return insertion.in_lines(line, places, [f"{each}\n" for each in facts.sentences], exact_length.enough(chars))

    return exact_length.cut(room, head, make, tail)


def _in_essays(material: Material, facts: Facts, room: Room, head: str, tail: str, rng: np.random.Generator) -> str:
    """Return the facts hidden at different published depths of the essays, which begin at a random sentence and repeat."""
    start = insertion.sentence_start(material.essays, int(rng.integers(len(material.essays))))
    depths = sorted(float(each) for each in rng.choice(DEPTHS, len(facts.sentences), replace=False))
    last = facts.sentences[-1] if depths[-1] == 1 else None
    inner = facts.sentences[: len(facts.sentences) - (last is not None)]

    def make(chars: int) -> Draft:
        hay = insertion.repeated(material.essays, start, exact_length.enough(chars))
        hay_chars = max(0, chars - sum(len(each) + 1 for each in inner))
        return insertion.in_text(hay, [depth * hay_chars for depth in depths[: len(inner)]], inner)

    return exact_length.cut(room, head, make, f" {last}{tail}" if last else tail)


def _among_facts(
    task: Task, material: Material, facts: Facts, room: Room, head: str, tail: str, rng: np.random.Generator
) -> str:
    """Return one fact at a random place among facts about other keys, the last of which are chosen for the exact length."""

    def other() -> str:
        while (key := drawn(task.keys, material, rng)) in facts.keys:
            pass
        return sentence(material, task.values, key, drawn(task.values, material, rng))

    (fact,) = facts.sentences
    spare = room.tokens - room.count(f"{head}{fact}{tail}")
    if spare < 0:
        raise exact_length.too_small(
            room.tokens, f"the instruction, the fact and the question alone take {room.tokens - spare:,}"
        )
    few = [f"\n{other()}" for _ in range(_CLOSING)]
    each = float(exact_length.sizes(room.vocabulary, few).mean())
    units = [f"\n{other()}" for _ in range(int(spare / each * 1.02) + 8)]
    fitting = np.cumsum(exact_length.sizes(room.vocabulary, units)) <= spare - 2 * each
    given = exact_length.Units(units[: int(fitting.sum())], few, lambda _, unit: unit, f"\n{fact}")
    held = exact_length.closed(room, head, given, tail, rng)
    if held is not None:
        return held

    def make(chars: int) -> Draft:  # all facts take equally many tokens, so the last one is cut
        count = max(1, chars // len(fact))
        more = [f"{other()}\n" for _ in range(exact_length.enough(count))]
        at = int(rng.integers(count))
        more.insert(at, f"{fact}\n")
        return Draft("".join(more), sum(len(one) for one in more[: at + 1]))

    return exact_length.cut(room, head, make, tail)
