"""Answer checks: the length of an answer, its end, and whether the answer belongs to its request."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.examination import Examination
from pytest_longctx.certificate.reply import LETTERS_PER_TOKEN, Reply
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.texts import COUNTING, Quest, has, quest

_CUT_TOKENS = 16
_LONG_TOKENS = 48
_REPEATS = 6
_AT_ONCE = 8
_CACHED_TOKENS = 1500
_BEFORE_STOP = 6
"""Number of letters in the answer before the stop sequence."""


def judge(exam: Examination) -> Iterator[Result]:
    """
    Yield the results of the answer checks: length, end, repeatability, stream, and whether each answer belongs to its
    request.
    """
    long = exam.ask((("user", COUNTING),), _LONG_TOKENS)
    short = exam.ask((("user", COUNTING),), _CUT_TOKENS)
    yield _kept("answer-max-tokens", short, long, exam.dialect.limit[0])
    yield _newer(exam, short)
    yield _finish(long, short)
    repeated = [long, *(exam.ask((("user", COUNTING),), _LONG_TOKENS) for _ in range(_REPEATS - 1))]
    share = _share(repeated)
    yield _stop(exam, long, share)
    yield _repeatable(exam, repeated, share)
    yield _streamed(exam, long, share)
    yield _own(exam, share)
    yield _cached(exam, share)


def _kept(name: str, reply: Reply, longer: Reply, limit: str) -> Result:
    """
    Return whether the answer *reply* keeps its token limit, as a result. *longer* is an answer to a request for more
    tokens.
    """
    if not reply.served:
        return unmeasured(name, reply.said)
    most, letters = reply.answer_tokens, len(reply.text + reply.thought)
    counted = reply.counts.answer if reply.counts else None
    seen = f"{'not counted' if counted is None else f'{counted} tokens'}, {letters} letters, ended by {reply.finish}"
    # A count above the limit beside a text that was cut is a wrong count, which is for count-answer.
    uncut = letters >= len(longer.text + longer.thought)
    long = letters > LETTERS_PER_TOKEN * most
    if (counted is None and long) or (counted is not None and counted > most and uncut):
        return broken(name, seen, f"at most {most} tokens", f"{limit} {most}")
    if long:
        return unmeasured(
            name,
            "the text is long for the reported number of tokens: the text consists of repeated marks, or the number is wrong",
            seen,
        )
    return holds(name, seen, f"{limit} {most}")


def _newer(exam: Examination, short: Reply) -> Result:
    name = "answer-max-completion-tokens"
    if exam.dialect.id != "chat":
        return unmeasured(name, "this dialect has only one name for this parameter")
    older = exam.dialect.limit[0]
    other = "max_completion_tokens" if older == "max_tokens" else "max_tokens"
    # In a stream, because an answer without a limit may go on for minutes: it is closed then.
    reply = exam.ask((("user", COUNTING),), _CUT_TOKENS, stream=exam.streams, **{older: None, other: _CUT_TOKENS})
    if reply.ending == "refused":
        return holds(name, f"{other} is refused: {reply.said}")
    if not reply.served:
        return unmeasured(name, reply.said)
    if exam.is_broken("answer-max-tokens"):
        return unmeasured(name, "answer-max-tokens is broken")
    letters, before = len(reply.text + reply.thought), len(short.text + short.thought)
    counted = reply.counts.answer if reply.counts else None
    seen = (
        f"{'not counted' if counted is None else f'{counted} tokens'}, {letters} letters, with {older} {before} letters"
    )
    longer = letters > 2 * before + LETTERS_PER_TOKEN and (counted is None or counted > _CUT_TOKENS)
    if reply.hung_up or longer:
        seen += ", and it went on when it was closed" if reply.hung_up else ""
        return broken(name, seen, f"at most {_CUT_TOKENS} tokens, or a 4xx", f"{other} {_CUT_TOKENS}")
    return holds(name, seen, f"{other} {_CUT_TOKENS}")


def _finish(long: Reply, short: Reply) -> Result:
    served = [each for each in (long, short) if each.served]
    if not served:
        return unmeasured("answer-finish", long.said)
    seen = "; ".join(f"max_tokens {each.answer_tokens}: {each.finish}" for each in served)
    if any(each.finish is None for each in served):
        return broken("answer-finish", seen, "a finish reason in every answer")
    if len(served) < 2 or not long.text.startswith(short.text) or len(long.text) <= len(short.text):
        return unmeasured("answer-finish", "the shorter answer is not the beginning of the longer one", seen)
    # The longer answer shows that the shorter one was cut. One that ignores the limit is for answer-max-tokens.
    if short.finish != "length":
        return broken("answer-finish", seen, "finish reason `length` where the answer was cut")
    return holds("answer-finish", seen)


def _share(replies: list[Reply]) -> float | None:
    """
    Return the share of the answers that equal the most frequent answer; None if a request was not served, or if all
    answers are empty.
    """
    texts = [each.text + each.thought for each in replies if each.served]
    if len(texts) < len(replies) or not any(texts):
        return None
    return Counter(texts).most_common(1)[0][1] / len(texts)


def _repeatable(exam: Examination, replies: list[Reply], share: float | None) -> Result:
    name = "answer-repeatable"
    if share is None:
        return unmeasured(name, "not every answer was served with text")
    seen = f"{share:.0%} of {len(replies)} answers at temperature 0 are equal"
    if share == 1:
        return holds(name, seen, share=share)
    if share < 0.5 and exam.dialect.temperature:
        return broken(name, seen, "at least half", share=share)
    chosen = "some answers differ; batching with other requests can cause this"
    because = chosen if exam.dialect.temperature else "the server does not accept `temperature`, so answers may differ"
    return unmeasured(name, because, seen, share=share)


def _stop(exam: Examination, long: Reply, share: float | None) -> Result:
    name = "answer-stop"
    if exam.dialect.stop is None:
        return unmeasured(name, "this dialect has no stop sequences")
    text = long.text
    if text.lstrip().startswith("<"):
        return unmeasured(name, "the answer begins with a tag, as if reasoning were not separated from the answer")
    place = len(text) // 2
    stop = text[place : place + 4].strip()
    if share != 1 or not stop or not stop.isascii() or text.find(stop) < _BEFORE_STOP:
        return unmeasured(
            name,
            "the answer is not repeatable, or no string in its middle is unique enough to serve as a stop sequence",
        )
    reply = exam.ask((("user", COUNTING),), _LONG_TOKENS, stop=stop)
    if not reply.served:
        return unmeasured(name, reply.said)
    asked, seen = f"stop {stop!r} in {text[:60]!r}", f"{reply.text[:60]!r}, ended by {reply.finish}"
    if stop not in reply.text:
        return holds(name, seen, asked)
    return broken(name, seen, "an answer that ends before the stop sequence", asked)


def _streamed(exam: Examination, long: Reply, share: float | None) -> Result:
    name = "answer-stream"
    if not exam.streams or share != 1:
        return unmeasured(name, "the answer is not repeatable" if exam.streams else "the server does not stream")
    replies = [exam.ask((("user", COUNTING),), _LONG_TOKENS, stream=True) for _ in range(2)]
    if not all(each.complete for each in replies):
        return unmeasured(name, next(each.said or each.ending for each in replies if not each.complete))
    # Reasoning is left out: some servers show it in one form only.
    whole, *texts = ((each.text or each.thought).strip() for each in (long, *replies))
    if not all((whole, *texts)):
        return unmeasured(name, "an answer has neither text nor reasoning that is shown")
    if whole in texts:
        return holds(name, f"{len(whole)} letters in both forms")
    if texts[0] == texts[1] and (whole.startswith(texts[0]) or whole.endswith(texts[0])):
        return broken(name, f"in a stream {texts[0][-40:]!r}", f"{whole[-40:]!r} at the end, as without")
    return unmeasured(name, "the answers differ in words; batching can cause this")


def _own(exam: Examination, share: float | None) -> Result:
    name = "answer-own"
    try:
        if exam.recall:
            return _own_codes(exam)
    except OverBudget as problem:
        return unmeasured(name, str(problem))
    if share != 1:
        return unmeasured(name, "the model does not answer questions, and its answers are not repeatable")
    prompts = [((("user", f"{'ABCDEFGH'[place] * 8} {place}. {COUNTING}"),)) for place in range(_AT_ONCE)]
    alone = [exam.ask(turns, _CUT_TOKENS).text for turns in prompts]
    if len(set(alone)) < _AT_ONCE:
        return unmeasured(name, "the model gives the same answer to different prompts")
    replies = exam.wire.together([partial(exam.ask, turns, _CUT_TOKENS) for turns in prompts])
    mixed = [place for place, each in enumerate(replies) if each.text != alone[place] and each.text in alone]
    if mixed:
        return broken(name, f"{len(mixed)} of {_AT_ONCE} answers belong to another request", "each its own")
    same = sum(each.text == alone[place] for place, each in enumerate(replies))
    return holds(
        name, f"{same} of {_AT_ONCE} answers equal those of single requests; none equals the answer to another request"
    )


def _own_codes(exam: Examination) -> Result:
    name = "answer-own"
    quests = [quest(exam.rng, 600, 1) for _ in range(_AT_ONCE)]
    replies = exam.wire.together([partial(exam.answer, each) for each in quests])
    codes = [each.asked[0].code for each in quests]
    others = [
        place
        for place, reply in enumerate(replies)
        if any(has(reply.text, code) for other, code in enumerate(codes) if other != place)
    ]
    own = sum(has(reply.text, code) for reply, code in zip(replies, codes, strict=True))
    seen = (
        f"of {_AT_ONCE} requests at once, {own} returned their own code and {len(others)} the code of another request"
    )
    if others:
        return broken(name, seen, "each its own")
    if exam.wire.gap_s:
        return unmeasured(name, "requests were rate-limited, so they were sent one after another", seen)
    if own < _AT_ONCE:
        return unmeasured(name, "not every answer contains its own code", seen)
    return holds(name, seen)


def _cached(exam: Examination, share: float | None) -> Result:
    name = "answer-cached"
    try:
        made = quest(exam.rng, int(_CACHED_TOKENS * exam.characters_per_token), 6)
        replies = [exam.answer(made, _CACHED_TOKENS) for _ in range(3)]
    except OverBudget as problem:
        return unmeasured(name, str(problem))
    if not all(each.served for each in replies):
        return unmeasured(name, next(each.said for each in replies if not each.served))
    if exam.recall:
        return _cached_codes(made, replies)
    texts = [each.text + each.thought for each in replies]
    if len(set(texts)) == 1 and texts[0]:
        return holds(name, "the same answer three times")
    because = "the model does not answer questions, and the answers differ" + (
        "" if share == 1 else ", as others of it do"
    )
    return unmeasured(name, because)


def _cached_codes(made: Quest, replies: list[Reply]) -> Result:
    name = "answer-cached"
    found = [made.found(each.text) for each in replies]
    pictures = ", ".join("".join("+" if each else "-" for each in one) for one in found)
    seen = f"codes found in the first answer and in two repetitions: {pictures}"
    lost = [a and not b and not c for a, b, c in zip(*found, strict=True)]
    cut = any(each.finish == "length" and not all(one) for each, one in zip(replies, found, strict=True))
    if sum(lost) > 1 and not cut:
        return broken(name, seen, "the codes of the first answer")
    if any(one != found[0] for one in found):
        return unmeasured(name, "the answers differ, but not consistently", seen)
    return holds(name, seen)
