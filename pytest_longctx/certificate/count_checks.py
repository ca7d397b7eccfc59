"""Counting checks: whether the server reports, and bills, the tokens that were sent and answered."""

from collections.abc import Iterator
from itertools import pairwise

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.dialects import Turn
from pytest_longctx.certificate.examination import Examination
from pytest_longctx.certificate.length_checks import above
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.texts import COUNTING, filler

_ANSWER_TOKENS = 24
_REPEATED = 768
"""Number of words of a prompt that is sent twice, enough to fill several blocks of any prefix cache."""
_BLOCK_TOKENS = 16
_SIZES = (40, 80, 120, 160, 200)
"""Words of the prompts whose token counts must be a linear function of their length."""
_WITH_USAGE = 6


def judge(exam: Examination) -> Iterator[Result]:
    """Yield the results of the counting checks, except `present` and `long`, which need the whole run."""
    yield _linear(exam)
    yield _unit(exam)
    yield _repeat(exam)
    yield _stream(exam)
    yield from _answers(exam)
    yield from _cached(exam)


def _counts(exam: Examination, turns: tuple[Turn, ...], answer_tokens: int = 1, **more: bool) -> Reply:
    """Return an answer with token counts (usage), after at most three requests."""
    reply = exam.ask(turns, answer_tokens, **more)
    for _ in range(2):
        if reply.prompt is not None or not reply.served:
            break
        reply = exam.ask(turns, answer_tokens, **more)
    return reply


def _linear(exam: Examination) -> Result:
    if exam.ruler.source == "none":
        return unmeasured("count-linear", "the server reports no usage")
    points = [(size, _counts(exam, filler(exam.rng, exam.ruler.words, size)).prompt) for size in _SIZES]
    values = [value for _, value in points if value is not None]
    if len(values) < len(points):
        return unmeasured("count-linear", "answers without usage")
    steps = [later - earlier for earlier, later in pairwise(values)]
    asked = f"{', '.join(str(size) for size in _SIZES)} words of filler"
    seen = f"counted {', '.join(f'{value:,}' for value in values)} tokens"
    if len(set(steps)) == 1 and steps[0] > 0:
        return holds("count-linear", seen, asked, step_tokens=steps[0])
    if exam.ruler.exact:
        return broken("count-linear", seen, "equal steps, as measured in the calibration", asked)
    # Words of a tokenizer may merge; steps that fall, or jump by more than a word of one token for each letter, may not.
    wild = min(steps) <= 0 or max(steps) - min(steps) > 0.25 * max(steps)
    if wild or _noisy(exam):
        return broken("count-linear", seen, "equal steps for equal parts", asked)
    return unmeasured("count-linear", "this tokenizer counts the same word differently in different places", seen)


def _noisy(exam: Examination) -> bool:
    """
    Return whether all token counts of the calibration are multiples of one number above 4, as no tokenizer counts equal
    words.
    """
    values = [value for _, value in exam.ruler.points]
    return (
        any(all(value % each == 0 for value in values) for each in (5, 8, 10, 16, 32, 50, 64, 100))
        and len(set(values)) > 1
    )


def _unit(exam: Examination) -> Result:
    if exam.ruler.source == "none":
        return unmeasured("count-unit", "the server reports no usage")
    words, added = (" the", " international", " é"), []
    for word in words:
        low, high = (_counts(exam, (("user", "Note:" + word * times),)).prompt for times in (16, 48))
        if low is None or high is None:
            return unmeasured("count-unit", "answers without usage")
        added.append(high - low)
    seen = "; ".join(f"32 x {word!r} add {count}" for word, count in zip(words, added, strict=True))
    letters, sizes = [32 * len(word) for word in words], [32 * len(word.encode()) for word in words]
    near = [all(abs(a - b) <= 1 for a, b in zip(added, each, strict=True)) for each in (letters, sizes)]
    if any(near):
        name = "character" if near[0] else "byte"
        return broken(
            "count-unit", f"{seen}: one for each {name}", "counts in tokens; in English a token has several characters"
        )
    ratio = added[0] / letters[0]
    if added[0] and all(abs(a - ratio * b) <= 1 for a, b in zip(added, letters, strict=True)):
        exam.facts["estimated"] = seen
        because = f"the counts are {1 / ratio:.3g} characters for each token whatever the text: an estimate, or a rare tokenizer"
        return unmeasured("count-unit", because, seen)
    return holds("count-unit", seen)


def _repeat(exam: Examination) -> Result:
    turns = filler(exam.rng, exam.ruler.words, 64)
    values = [_counts(exam, turns).prompt for _ in range(4)]
    if None in values:
        return unmeasured("count-repeat", "answers without usage")
    seen = f"counted {', '.join(str(value) for value in values)} tokens"
    if len(set(values)) == 1:
        return holds("count-repeat", seen)
    return broken("count-repeat", seen, "one count", "the same prompt four times")


def _stream(exam: Examination) -> Result:
    if not exam.streams:
        return unmeasured("count-stream", "the server does not stream")
    turns = filler(exam.rng, exam.ruler.words, 96)
    plain, streamed = _counts(exam, turns, 8), _counts(exam, turns, 8, stream=True)
    if plain.prompt is None or streamed.prompt is None:
        return unmeasured("count-stream", "no usage " + ("in streams" if streamed.prompt is None else "without stream"))
    seen = f"{plain.prompt:,} prompt tokens without streaming, {streamed.prompt:,} with streaming"
    if plain.prompt == streamed.prompt:
        return holds("count-stream", seen)
    return broken("count-stream", seen, "the same count")


def _answers(exam: Examination) -> Iterator[Result]:
    replies = [_counts(exam, (("user", COUNTING),), tokens) for tokens in (_ANSWER_TOKENS, 2 * _ANSWER_TOKENS)]
    if exam.streams:
        replies.append(_counts(exam, (("user", COUNTING),), _ANSWER_TOKENS, stream=True))
    cut = [
        each
        for each in replies
        if each.served and each.finish == "length" and each.counts and each.counts.answer is not None
    ]
    pairs = [(each.answer_tokens, each.counts.answer) for each in cut if each.counts]
    seen = "; ".join(f"max_tokens {asked}: counted {counted}" for asked, counted in pairs)
    because = _otherwise_cut(cut)
    if not pairs or exam.is_broken("answer-max-tokens"):
        yield unmeasured("count-answer", "no answer that was cut by max_tokens has a token count")
    elif all(asked == counted for asked, counted in pairs):
        yield holds("count-answer", seen)
    elif because:
        yield unmeasured("count-answer", because, seen)
    else:
        yield broken("count-answer", seen, "equal to max_tokens if the answer ended with `length`")
    yield _total(exam)


def _otherwise_cut(cut: list[Reply]) -> str:
    """
    Return why the counts of answers cut by length may be right although they differ from ``max_tokens``; empty without
    a reason.
    """
    if all(
        each.answer_tokens in (_with_reasoning(each), (each.counts.total or 0) - (each.prompt or 0))
        for each in cut
        if each.counts
    ):
        return "the count excludes reasoning tokens, which the server reports separately"
    same = {(each.counts.answer, each.text) for each in cut if each.counts}
    if (
        len(cut) > 1
        and len(same) == 1
        and all((each.counts.answer or 0) < each.answer_tokens for each in cut if each.counts)
    ):
        return f"the server ends every answer after {next(iter(same))[0]} tokens"
    return ""


def _with_reasoning(reply: Reply) -> int:
    counts = reply.counts
    return (counts.answer or 0) + (counts.reasoning or 0) if counts else 0


def _total(exam: Examination) -> Result:
    name = "count-total"
    sums = [each for each in exam.wire.replies if each.counts and None not in (each.counts.total, each.counts.prompt)]
    if not sums:
        return unmeasured(name, "no answer reports total_tokens")
    more = {each: _beside(each) for each in sums if _beside(each)}
    if not more:
        return holds(name, f"in {len(sums)} answers")
    seen = f"{len(more)} of {len(sums)} answers, such as {next(iter(more)).counts}"
    # Some providers count reasoning in the total alone.
    if all(extra == (each.counts.reasoning if each.counts else None) for each, extra in more.items()):
        return unmeasured(name, "total_tokens includes the reasoning tokens, which the answer's count excludes", seen)
    cut = [each for each in more if each.finish == "length" and each.counts]
    if cut and all((each.counts.answer or 0) + more[each] == each.answer_tokens for each in cut if each.counts):
        return unmeasured(
            name,
            "total_tokens includes tokens up to max_tokens that the answer's count excludes, such as reasoning",
            seen,
        )
    return broken(name, seen, "the sum of prompt and answer tokens")


def _beside(reply: Reply) -> int:
    """Return the number of tokens in the total of one *reply* that are neither prompt nor answer."""
    counts = reply.counts
    return (counts.total or 0) - (counts.prompt or 0) - (counts.answer or 0) if counts else 0


def _cached(exam: Examination) -> Iterator[Result]:
    try:
        yield from _cached_counts(exam)
    except OverBudget as problem:
        yield unmeasured("count-cached-fresh", str(problem))
        yield unmeasured("count-cached-prefix", str(problem))


def _cached_counts(exam: Examination) -> Iterator[Result]:
    words, per_word = exam.ruler.words, exam.ruler.per_word
    first = filler(exam.rng, words, _REPEATED)
    text = first[0][1]
    # The other prompt shares the first half, to a word, and differs in each word after it.
    border = len("Note:") + sum(1 for _ in text[5:].split(" ")[1:385]) * len(words[0])
    half = (("user", text[:border] + "".join(words[1] for _ in range(_REPEATED // 2))),)
    expected = int(exam.ruler.tokens_of(_REPEATED))
    fresh, again, other = (exam.ask(turns, 1, expected=expected) for turns in (first, first, half))
    cached = [each.counts.cached if each.counts else None for each in (fresh, again, other)]
    if cached[0] is None and cached[1] is None:
        yield unmeasured("count-cached-fresh", "no answer reports cached tokens")
        yield unmeasured("count-cached-prefix", "no answer reports cached tokens")
        return
    template = max(0.0, exam.ruler.base) + _BLOCK_TOKENS
    seen = f"a new prompt: {_said(cached[0])} of {_said(fresh.prompt)} tokens cached"
    if cached[0] is not None and cached[0] > template:
        yield broken("count-cached-fresh", seen, f"at most {template:.0f}: the chat template and one block")
        yield unmeasured("count-cached-prefix", "count-cached-fresh is broken")
        return
    yield holds("count-cached-fresh", seen)
    shared = template + per_word * _REPEATED / 2
    seen = f"repeated: {_said(cached[1])} of {_said(again.prompt)} cached; with the same first half: {_said(cached[2])}"
    wrong = (cached[1] or 0) > (again.prompt or expected) or (cached[2] or 0) > shared
    if wrong:
        yield broken("count-cached-prefix", seen, f"at most {again.prompt or expected}, and at most {shared:.0f}")
    else:
        yield holds("count-cached-prefix", seen, cached_tokens=cached[1])


def _said(count: int | None) -> str:
    return "not reported" if count is None else f"{count:,}"


def judge_whole(exam: Examination) -> Iterator[Result]:
    """Yield the results of the counting checks that need all answers of the run."""
    yield _present(exam)
    yield _long(exam)
    if exam.facts.get("estimated") and exam.is_broken("length-told"):
        seen = f"{exam.facts['estimated']}: in proportion to the characters, but the refusal states another count"
        yield broken("count-unit", seen, "token counts that agree with the limit")


def _present(exam: Examination) -> Result:
    wanted = [
        each
        for each in exam.wire.replies
        if each.complete and not above(exam, each) and (not each.streamed or exam.dialect.stream_options or each.counts)
    ]
    without = [each for each in wanted if each.counts is None or each.counts.prompt is None]
    if len(wanted) < _WITH_USAGE:
        return unmeasured("count-present", "too few answers")
    seen = f"{len(wanted) - len(without)} of {len(wanted)} answers have usage"
    if not without:
        return holds("count-present", seen)
    if len(without) == len(wanted):
        return broken("count-present", seen, "usage in every answer")
    kinds = {each.streamed for each in without}
    return broken(
        "count-present", seen + (", all without in streams" if kinds == {True} else ""), "usage in every answer"
    )


def _long(exam: Examination) -> Result:
    served = [each for each in exam.sent if each.reply.served and each.reply.prompt is not None]
    if not served or exam.ruler.source == "none":
        return unmeasured("count-long", "no long prompt was served and counted")
    longest = max(served, key=lambda each: each.tokens)
    counted = longest.reply.prompt or 0
    spare = 0 if exam.ruler.exact else exam.ruler.slack + 0.01 * longest.tokens
    seen = f"{longest.tokens:,} tokens expected from short prompts, counted {counted:,}"
    if abs(counted - longest.tokens) <= spare:
        return holds("count-long", seen)
    if exam.facts.get("truncated"):
        return unmeasured("count-long", "the server truncates prompts (see truncation)", seen)
    if counted > 0.98 * longest.tokens:
        return unmeasured("count-long", "repeated words may merge into longer tokens", seen)
    return broken("count-long", seen, f"{longest.tokens:,}, within {spare:.0f}")
