"""Insert sentences at chosen places between the sentences of a text, or between repeated lines."""

import re
from collections.abc import Sequence
from typing import Final

from pytest_longctx.errors import PromptError
from pytest_longctx.prompts.ruler.exact_length import Draft

_SENTENCE_END: Final = re.compile(r"(?<=[.?!]) (?=[A-Z\"'(])")
_NEAR_CHARS: Final = 1024
"""Distance in characters within which a place is moved to the end of a sentence."""


def split(template: str) -> tuple[str, str]:
    """Return the parts of *template* before and after its context. Raises `PromptError`."""
    before, found, after = template.partition("{context}")
    if not found:
        raise PromptError(f"the template {template[:60]!r} has no {{context}}")
    return before, after


def repeated(text: str, start: int, chars: int) -> str:
    """Return *chars* characters of *text* from *start* on. At its end, the text continues from its beginning."""
    found = text[start : start + chars]
    while len(found) < chars:
        found = f"{found} {text[: chars - len(found) - 1]}"
    return found


def sentence_start(text: str, place: int) -> int:
    """Return the start of the sentence nearest to *place*; *place* itself if none is near."""
    low = max(0, place - _NEAR_CHARS)
    starts = [low + each.end() for each in _SENTENCE_END.finditer(text[low : place + _NEAR_CHARS])]
    if place < _NEAR_CHARS:
        starts.append(0)
    return min(starts, key=lambda each: abs(each - place), default=min(place, len(text)))


def in_text(text: str, places: Sequence[float], sentences: Sequence[str]) -> Draft:
    """
    Return *text* with each of *sentences* inserted before the sentence nearest to its place in characters. Places
    ascend.
    """
    parts, done = list[str](), 0
    for place, each in zip(places, sentences, strict=True):
        at = max(done, sentence_start(text, round(place)))
        parts += [text[done:at], each, " "]
        done = at
    least = sum(len(part) for part in parts[:-1])
    return Draft("".join(parts) + text[done:], least)


def in_lines(line: str, places: Sequence[int], inserted: Sequence[str], chars: int) -> Draft:
    """
    Return repetitions of *line*, with the text ``inserted[i]`` before the repetition number ``places[i]``. Numbers
    ascend.
    """
    lines = [line] * (chars // len(line) + 1)
    for place, each in reversed(list(zip(places, inserted, strict=True))):
        lines.insert(place, each)
    last = places[-1] + len(places)
    return Draft("".join(lines), sum(len(each) for each in lines[:last]))
