"""
A miniature's answer to the prompt that it read: the codes in the prompt, a count, or words that depend on the prompt
alone.
"""

import hashlib
import re
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Final

from pytest_longctx.miniatures.hosted.tokens import Ids, decode, encode

TASK: Final = re.compile(r"Task: give the codes? of (.+?)(?:, in this order)?\. Reply")
QUESTION: Final = re.compile(r"What is the code of (the \w+ \w+)\?")
COUNT: Final = re.compile(r"[Cc]ount from (\d{1,6}) to (\d{1,6})")
_FACT: Final = re.compile(r"The code of (the \w+ \w+) is (\d{5,9})\b")
_PROSE: Final = (
    *(
        "river",
        "stone",
        "window",
        "garden",
        "letter",
        "winter",
        "bridge",
        "market",
        "harbour",
        "valley",
        "lantern",
        "carpet",
    ),
    *(
        "morning",
        "silver",
        "quiet",
        "narrow",
        "distant",
        "yellow",
        "wooden",
        "gentle",
        "carries",
        "follows",
        "remembers",
    ),
    *(
        "crosses",
        "opens",
        "keeps",
        "the",
        "a",
        "of",
        "and",
        "to",
        "in",
        "with",
        "near",
        "under",
        "over",
        "while",
        "before",
    ),
)
PROSE_TOKENS: Final = 700
"""Tokens after which free text ends by itself, unless the client disables that."""


def asked_things(text: str) -> list[str] | None:
    """
    Return the things whose codes the read prompt *text* asks for, in order; None if the prompt asks for none. The first
    task decides.
    """
    if task := TASK.search(text):
        return re.split(r", and |, | and ", task[1])
    questions = QUESTION.findall(text)
    return questions[-1:] or None


def asks(ids: Ids) -> bool:
    """Return whether the read prompt *ids* asks for codes or for a count."""
    text = decode(ids)
    return asked_things(text) is not None or COUNT.search(text[-2000:]) is not None


def codes(text: str, things: list[str]) -> str:
    """Return the codes of *things* in the read prompt *text*; ``unknown`` for a thing without a code."""
    stated: dict[str, str] = {}
    for thing, code in _FACT.findall(text):
        stated.setdefault(thing, code)
    return ", ".join(stated.get(thing, "unknown") for thing in things)


def _counted(first: int, last: int) -> Iterator[str]:
    for number in range(first, last + 1):
        yield str(number) if number == first else f", {number}"


def _prose(ids: Ids, salt: str) -> Iterator[str]:
    """Yield words that depend on every token of the read prompt *ids*, and on *salt*."""
    digest = hashlib.sha256(ids.tobytes() + salt.encode()).digest()
    rng = Random(digest)
    while True:
        yield " " + rng.choice(_PROSE)


def spoken(ids: Ids, salt: str, limit: int, *, endless: bool) -> Ids:
    """
    Return up to *limit* answer tokens to the read prompt *ids*, one more than the answer has if it would continue.

    *salt* is empty for a greedy answer, and differs between sampled ones. Codes and counts do not depend on it. An
    *endless* answer continues with free text after its end.
    """
    text = decode(ids)
    parts: Iterator[str]
    if (things := asked_things(text)) is not None:
        parts = iter((codes(text, things),))
    elif counts := COUNT.search(text[-2000:]):
        parts = _counted(int(counts[1]), int(counts[2]))
    else:
        parts = islice(_prose(ids, salt), PROSE_TOKENS // 2)
    said: Ids = encode("")
    for part in _then_prose(parts, ids, salt) if endless else parts:
        said.extend(encode(part))
        if len(said) > limit:
            break
    return said


def _then_prose(parts: Iterator[str], ids: Ids, salt: str) -> Iterator[str]:
    yield from parts
    yield from _prose(ids, salt + "on")
