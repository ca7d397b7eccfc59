"""
Truncation checks: ask for codes in natural text, and find the length from which some of them are lost.

A model may miss a code that the server did deliver. Two more readings are therefore needed to report a truncation: a
second text of that length loses codes at the same places, and a slightly shorter text loses none. Otherwise the check
is unmeasured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.examination import Examination
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.texts import Quest, quest, single

CODES = 12
SHORT_TOKENS = 900
REASONING_TOKENS = 2048
"""Number of tokens for the reasoning of a model before its answer."""
_LENGTHS = 4096
_SPREAD = 1.25
"""
Ratio of the two lengths between which truncation begins. At least a fifth of the text, two codes, is dropped then.
"""
_TURNS = 12
_NEARLY = 0.95
"""Longest text as a share of the limit, because natural text has no exact length."""
_SINGLE = (0, CODES // 2, CODES - 1)
"""Codes that are requested one by one if the model cannot list all."""

Part = Literal["head", "middle", "tail", "scattered"]
PARTS: tuple[Part, ...] = ("head", "middle", "tail", "scattered")


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer about one text, and the codes of the text that the answer has."""

    tokens: int
    """The prompt length in tokens by the calibration. A server may count only the tokens that it kept."""
    found: tuple[bool, ...]
    reply: Reply = field(repr=False)
    cut: bool = False
    """Whether the answer ended at its token limit, so that a missing code may not be lost."""

    @property
    def whole(self) -> bool:
        return all(self.found)

    @property
    def unfinished(self) -> bool:
        """Whether the answer ended during reasoning: a weak model may write about other things up to the limit."""
        text = self.reply.text.lstrip()
        return self.cut and bool(self.reply.thought or not text or text.startswith("<"))

    @property
    def part(self) -> Part:
        """The part of the text whose codes are missing from the answer: head, middle, tail or scattered."""
        return part_of(self.found)

    @property
    def picture(self) -> str:
        return "".join("+" if each else "-" for each in self.found)


def part_of(found: Sequence[bool]) -> Part:
    """
    Return the part of the text that was dropped, from the places of the lost codes.

    >>> part_of([False, False, True]), part_of([True, False, True]), part_of([False, True, False, True])
    ('head', 'middle', 'scattered')
    """
    lost = [place for place, each in enumerate(found) if not each]
    if lost != list(range(lost[0], lost[-1] + 1)):
        return "scattered"
    if lost[0] == 0:
        return "head"
    return "tail" if lost[-1] == len(found) - 1 else "middle"


def recall(exam: Examination) -> Iterator[Result]:
    """
    Yield whether the model recalls codes in short texts, and calibrate characters per token. Without recall, truncation
    cannot be detected.
    """
    name = "truncation-recall"
    short, again = _short(exam, "all")
    _scale(exam, short, again)
    if exam.recall:
        yield holds(name, _all_found(exam, short, again), f"{CODES} codes in one answer", how="all")
        return
    if short.reply.text or not short.cut:
        one, two = _short(exam, "single")
        if exam.recall:
            yield holds(name, _all_found(exam, one, two), "one code in each answer", how="single")
            return
    if short.unfinished:
        exam.reasoning_tokens = REASONING_TOKENS
        long, longer = _short(exam, "all")
        if exam.recall:
            asked = f"{CODES} codes in one answer, and {REASONING_TOKENS:,} tokens for text before the codes"
            yield holds(name, _all_found(exam, long, longer), asked, how="all", reasoning_tokens=REASONING_TOKENS)
            return
        exam.reasoning_tokens = 0
    seen = f"found {short.picture} and {again.picture}: {short.reply.text[:80]!r}"
    yield unmeasured(name, _no_recall(short), seen)


def _short(exam: Examination, how: str) -> tuple[Reading, Reading]:
    """Return the readings of two short texts. If all codes were found in both, store *how* codes are requested."""
    first, second = read(exam, SHORT_TOKENS, how=how), read(exam, 2 * SHORT_TOKENS, how=how)
    exam.recall = how if first.whole and second.whole else ""
    return first, second


def _no_recall(short: Reading) -> str:
    """Return why codes of a *short* text were not found."""
    if not short.reply.served:
        return f"the server did not answer questions about codes: {short.reply.said}"
    if short.unfinished:
        return "the answers reach their token limit before they contain all codes; reasoning models can do this"
    return "the model does not answer questions about codes in a short text, so lost codes would prove nothing"


def _all_found(exam: Examination, short: Reading, longer: Reading) -> str:
    return f"all codes found in {exam.natural(short.tokens, longer.tokens)}"


def _scale(exam: Examination, short: Reading, longer: Reading) -> None:
    """Calibrate the number of characters per token of natural text from two readings."""
    low, high = short.reply, longer.reply
    if low.prompt and high.prompt and high.prompt > low.prompt:
        exam.characters_per_token = (high.prompt_characters - low.prompt_characters) / (high.prompt - low.prompt)
    exam.fields["characters_per_token"] = round(exam.characters_per_token, 3)


def read(exam: Examination, tokens: int, *, how: str = "", turns: int = 1) -> Reading:
    """Send a new text of about *tokens*, request its codes, and return the reading. Raises `OverBudget`."""
    how = how or exam.recall
    made = quest(exam.rng, int(tokens * exam.characters_per_token), CODES, turns=turns)
    if how == "all":
        reply = exam.answer(made, tokens, stream=exam.streams)
        found = made.found(reply.text)
        return Reading(tokens, found, reply, reply.finish == "length" and not all(found))
    return _one_by_one(exam, made, tokens)


def _one_by_one(exam: Examination, made: Quest, tokens: int) -> Reading:
    found: list[bool] = []
    cut = False
    reply: Reply | None = None
    for place in _SINGLE:
        one = single(made, made.asked[place])
        reply = exam.answer(one, tokens, stream=exam.streams)
        found += one.found(reply.text)
        cut = cut or (reply.finish == "length" and not found[-1])
    assert reply is not None
    return Reading(tokens, tuple(found), reply, cut)


def lengths(exam: Examination) -> list[int]:
    """Return the lengths in tokens at which truncation is checked, each four times the one before, up to the limit."""
    limit = exam.facts.get("limit")
    top = int((limit.longest if limit and limit.longest else 2 * SHORT_TOKENS) * _NEARLY) - 64 - exam.reasoning_tokens
    times = 1 if exam.recall == "all" else len(_SINGLE)
    budget = exam.wire.budget.left() // (3 * times)
    made, each = [], _LENGTHS
    while each < 0.7 * top and each < budget:
        made.append(each)
        each *= 4
    return [*made, top] if top < 1.2 * budget or not made else made


def judge(exam: Examination) -> Iterator[Result]:
    """
    Yield the results of truncation for longer and longer texts. If codes are lost, find the length at which the loss
    begins.
    """
    if not exam.recall:
        because = "the model does not answer such questions even in a short text (truncation-recall)"
        yield from (unmeasured(f"truncation-{part}", because) for part in (*PARTS, "turns"))
        return
    readings: list[Reading] = []
    because = ""
    for tokens in lengths(exam):
        try:
            readings.append(read(exam, tokens))
        except OverBudget as problem:
            because = str(problem)
            break
        if not readings[-1].reply.served:
            because = f"{exam.natural(tokens)}: {readings[-1].reply.said}"
            readings.pop()
            break
        if readings[-1].cut:
            because = f"{exam.natural(tokens)}: the answer reached its token limit before it contained all codes"
            readings.pop()
            break
        if not readings[-1].whole:
            break
    yield from _parts(exam, readings, because)
    yield _turns(exam, readings)


def _parts(exam: Examination, readings: list[Reading], because: str) -> Iterator[Result]:
    if not readings:
        yield from (unmeasured(f"truncation-{part}", because) for part in PARTS)
        return
    last = readings[-1]
    exam.facts["read_tokens"] = max((each.tokens for each in readings if each.whole), default=None)
    if last.whole:
        exam.facts["truncated"] = None
        seen = f"all codes found in {exam.natural(*(each.tokens for each in readings))}" + (
            f" (no longer text: {because})" if because else ""
        )
        for part in PARTS:
            yield holds(f"truncation-{part}", seen, read_tokens=last.tokens)
        return
    yield from _lost(exam, last)


def _lost(exam: Examination, last: Reading) -> Iterator[Result]:
    """
    Yield whether lost codes mean truncation: read another text, find the length at which truncation begins, and
    compare.
    """
    try:
        again = read(exam, last.tokens)
        below, above = onset(exam, last)
        repeated = read(exam, above.tokens)
    except OverBudget as problem:
        yield from (unmeasured(f"truncation-{part}", f"codes were lost ({last.picture}); {problem}") for part in PARTS)
        return
    seen = (
        f"{exam.natural(last.tokens)}: found {last.picture}, in another text {again.picture}; "
        f"{exam.natural(above.tokens)}: {above.picture} and {repeated.picture}; "
        + (f"all codes found up to {exam.natural(below)}" if below else "no text of these lengths is read completely")
    )
    part = _cause(below, above, repeated, last, again)
    exam.facts["truncated"] = below if part else None
    for each in PARTS:
        if part is None:
            yield unmeasured(
                f"truncation-{each}",
                "codes were lost without a pattern; either the model or the server lost them",
                seen,
            )
        elif each == part:
            asked = f"{CODES} codes from the start to the end of the text"
            yield broken(f"truncation-{each}", seen, "all codes", asked, read_tokens=below, part=part)
        else:
            yield unmeasured(f"truncation-{each}", f"truncation-{part} is broken", seen)


def onset(exam: Examination, lost: Reading) -> tuple[int, Reading]:
    """Return where truncation begins: the longest text read completely, and a text at most a quarter longer that is not."""
    below = exam.facts.get("read_tokens") or SHORT_TOKENS
    above = lost
    while above.tokens > _SPREAD * below:
        tokens = int((above.tokens * below) ** 0.5)
        reading = read(exam, tokens)
        if not reading.reply.served or abs(reading.tokens - tokens) > tokens // 2:
            break
        if reading.whole:
            below = reading.tokens
        else:
            above = reading
    return below, above


def _cause(below: int, above: Reading, repeated: Reading, last: Reading, again: Reading) -> Part | None:
    """Return the truncated part of the text; None if chance or a weak model also explains the lost codes."""
    readings = (above, repeated, last, again)
    # A text that is cut still has its start or its end, with a code: if all are lost, the model does not answer.
    if not below or any(each.whole or each.cut for each in readings) or not any(last.found + again.found):
        return None
    always = [not any(found) for found in zip(*(each.found for each in readings), strict=True)]
    same = all(each.found == above.found for each in readings)
    if same and sum(always) > 1:
        return last.part
    pairs = ((above, repeated), (last, again))
    if any(sum(a != b for a, b in zip(one.found, two.found, strict=True)) > 1 for one, two in pairs):
        return "scattered" if _summary(last, again) else None
    if last.part == "scattered":
        return "scattered" if _summary(last, again) else None
    # What is kept has one size at every length, so the found share falls as 1 / length.
    kept = sum(last.found) / len(last.found)
    expected = below / last.tokens
    if above.part != last.part or not 0.4 * expected - 0.1 <= kept <= _SPREAD * expected + 0.15:
        return None
    return last.part


def _summary(last: Reading, again: Reading) -> bool:
    """Return whether the server seems to summarise: each of two readings lost a third of the codes or more."""
    return all(sum(each.found) <= len(each.found) * 2 / 3 for each in (last, again))


def _turns(exam: Examination, readings: Sequence[Reading]) -> Result:
    name = "truncation-turns"
    whole = [each for each in readings if each.whole]
    if exam.dialect.form != "messages":
        return unmeasured(name, "this dialect has no messages")
    if not whole or exam.facts.get("truncated"):
        return unmeasured(name, "a single message is also shortened, or could not be read")
    if exam.recall != "all":
        return unmeasured(name, "the model cannot list all codes in one answer")
    try:
        control = read(exam, 2 * SHORT_TOKENS, turns=_TURNS)
        if not control.whole:
            return unmeasured(name, "the model does not find all codes in a short conversation either", control.picture)
        return _talk(exam, whole[-1].tokens)
    except OverBudget as problem:
        return unmeasured(name, str(problem))


def _talk(exam: Examination, tokens: int) -> Result:
    """
    Return the truncation of two conversations that are nearly as long as a text of *tokens* that was read in one
    message.
    """
    name = "truncation-turns"
    reading, again = (read(exam, int(tokens * _NEARLY), turns=_TURNS) for _ in range(2))
    if not (reading.reply.served and again.reply.served):
        return unmeasured(name, reading.reply.said)
    seen = f"{exam.natural(reading.tokens)} in {2 * _TURNS} messages: found {reading.picture} and {again.picture}"
    if reading.whole or again.whole:
        return holds(name, seen)
    if reading.cut or again.cut:
        return unmeasured(name, "an answer reached its token limit before it contained all codes", seen)
    unequal = sum(a != b for a, b in zip(reading.found, again.found, strict=True)) > 1
    if unequal or sum(reading.found) > CODES - 2 or not any(reading.found):
        return unmeasured(name, "codes were lost without a pattern; either the model or the server lost them", seen)
    asked = f"the text of {tokens:,} tokens that was read as one message"
    return broken(name, seen, "all codes, as in a single message", asked)


def influence(exam: Examination) -> Iterator[Result]:
    """Yield the truncation results for a model without recall: whether the first token depends on each part of the prompt."""
    name = "truncation-influence"
    if exam.recall:
        yield unmeasured(name, "not needed: codes are found (truncation-recall)")
        return
    limit = exam.facts.get("limit")
    longest = limit.longest if limit and limit.longest else 2048
    tokens = min(int(longest * 0.9), exam.wire.budget.left() // 8)
    if tokens < 4 * exam.ruler.least:
        yield unmeasured(name, "the budget does not cover six prompts")
        return
    yield _influence(exam, exam.ruler.turns(exam.rng, tokens), tokens)


def _influence(exam: Examination, turns: tuple[tuple[str, str], ...], tokens: int) -> Result:
    name = "truncation-influence"
    role, text = turns[0]
    words = exam.ruler.words
    replies = []
    try:
        for depth in (None, None, 0.1, 0.5, 0.9):
            changed = text
            if depth is not None:
                place = text.find(words[0], int(depth * len(text)))
                changed = text[:place] + words[1] + text[place + len(words[0]) :]
            replies.append(exam.ask(((role, changed),), 8, expected=tokens, logprob=True))
    except OverBudget as problem:
        return unmeasured(name, str(problem))
    first, same, *others = replies
    if not all(each.served for each in replies):
        return unmeasured(name, next(each.said for each in replies if not each.served))
    if first.logprob is None or any(each.logprob is None for each in replies):
        if first.text == same.text and all(each.text != first.text for each in others):
            return holds(
                name, f"{tokens:,} tokens: a change at 10, 50 and 90 % of the prompt changes the greedy answer"
            )
        return unmeasured(name, "no log-probabilities, and the greedy answer does not depend on one word")
    noise = abs((first.logprob or 0) - (same.logprob or 0))
    moved = [abs((each.logprob or 0) - (first.logprob or 0)) for each in others]
    seen = f"{tokens:,} tokens: one word at 10, 50 and 90 % changes the first log-probability by " + ", ".join(
        f"{each:.2g}" for each in moved
    )
    if min(moved) > 3 * noise:
        return holds(name, f"{seen}; repeating the same prompt changes it by {noise:.2g}")
    return unmeasured(
        name,
        "the change is not above the change between two requests with the same prompt",
        f"{seen}; twice: {noise:.2g}",
    )
