"""
Time checks: time to first token by length, rates, pauses, and the report of rate limits. No check judges the size of a
figure.
"""

import re
from collections.abc import Iterator
from statistics import median

import httpx
import numpy as np

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.error_checks import GIVEN_UP
from pytest_longctx.certificate.examination import Examination
from pytest_longctx.certificate.reply import Reply
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.texts import COUNTING, filler
from pytest_longctx.certificate.wire import TRIES
from pytest_longctx.client.json_values import figure_of
from pytest_longctx.units import duration

_LONG_ANSWER, _SHORT_ANSWER = 96, 8
_TIMES = 3
_SEEN_S = 0.25
"""Shortest generation time that shows whether a stream is buffered."""
_COUNTER = re.compile(
    r"^([\w:]*prompt_tokens_total)(?:\{[^}\n]*\})? ([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]+)?)[ \t]*$", re.MULTILINE
)
_READ_WORDS = 512
_READ_TIMES = 3


def judge(exam: Examination) -> Iterator[Result]:
    """Yield the results of the timing checks that need requests of their own."""
    yield _stream(exam)
    yield _read_once(exam)


def _stream(exam: Examination) -> Result:
    name = "time-stream"
    if not exam.streams:
        return unmeasured(name, "the server does not stream")
    long, short = (
        [exam.ask((("user", COUNTING),), tokens, stream=True) for _ in range(_TIMES)]
        for tokens in (_LONG_ANSWER, _SHORT_ANSWER)
    )
    if not all(each.complete and each.arrivals_s for each in (*long, *short)):
        return unmeasured(name, "not every stream was served")
    first, whole = (median(values) for values in zip(*((each.ttft_s or 0, each.took_s) for each in long), strict=True))
    early = median(each.ttft_s or 0 for each in short)
    grown = median(each.took_s for each in long) - median(each.took_s for each in short)
    seen = (
        f"answers of {_LONG_ANSWER} tokens: first text after {duration(first)} of {duration(whole)}; "
        f"of {_SHORT_ANSWER} tokens: after {duration(early)}"
    )
    if grown < _SEEN_S:
        return unmeasured(
            name, f"the longer answer takes only {duration(max(0.0, grown))} longer, which is too fast to judge", seen
        )
    # A buffer holds the first text back until the answer has ended, in each of the answers.
    held = all((each.ttft_s or 0) > 0.9 * each.took_s for each in long)
    if held and first - early > 0.7 * grown:
        return broken(name, seen, "the first text long before the end of the answer")
    return holds(name, seen)


def _counter(exam: Examination) -> float | None:
    """Return the server's own counter of prompt tokens, to find prompts that were computed twice; None without a counter."""
    response = exam.wire.get("/metrics")
    if response is None or response.status_code != httpx.codes.OK:
        return None
    values = _COUNTER.findall(response.text)
    names = {name for name, _ in values}
    return figure_of(sum(float(value) for _, value in values)) if len(names) == 1 else None


def _read_once(exam: Examination) -> Result:
    name = "time-read-once"
    if _counter(exam) is None:
        return unmeasured(name, "no counter of prompt tokens at /metrics")
    added, sent, reused = [], [], []
    try:
        for _ in range(_READ_TIMES):
            before = _counter(exam)
            turns = filler(exam.rng, exam.ruler.words, _READ_WORDS)
            reply = exam.ask(turns, 1, expected=int(exam.ruler.tokens_of(_READ_WORDS)))
            after = _counter(exam)
            if before is None or after is None or reply.counts is None or reply.prompt is None:
                return unmeasured(name, "the counter or `usage` is missing")
            added.append(after - before)
            sent.append(reply.prompt)
            reused.append(reply.counts.cached or 0)
    except OverBudget as problem:
        return unmeasured(name, str(problem))
    counted = ", ".join(f"{value:,.0f}" for value in added)
    seen = f"counted by the server {counted}, sent {', '.join(f'{each:,}' for each in sent)}"
    if any(reused):
        seen += f", of which {', '.join(f'{each:,}' for each in reused)} from the cache"
    # llama.cpp's counter leaves out what was reused.
    if added in (sent, [each - cached for each, cached in zip(sent, reused, strict=True)]):
        return holds(name, seen)
    if (
        all(value >= 2 * each for value, each in zip(added, sent, strict=True))
        and len({a - b for a, b in zip(added, sent, strict=True)}) <= 2
    ):
        return broken(name, seen, "each prompt once")
    return unmeasured(name, "other requests may have changed the counter", seen)


def judge_whole(exam: Examination) -> Iterator[Result]:
    """Yield the results of the timing checks that need all answers of the run."""
    replies = exam.wire.replies
    yield _rate_limit(replies)
    yield _silence(replies)
    yield from _first_token(exam)
    yield _rate(replies)


def _rate_limit(replies: list[Reply]) -> Result:
    name = "time-rate-limit"
    limited = [each for each in replies if each.waits_s or each.ending == "limited"]
    if not limited:
        return unmeasured(name, f"none of {len(replies)} requests was rate-limited")
    lost = [each for each in limited if each.ending == "limited"]
    waits = sum(sum(each.waits_s) for each in limited)
    seen = (
        f"{len(limited)} of {len(replies)} requests were rate-limited; the client waited {duration(waits)}; "
        f"{len(lost)} requests were never served"
    )
    if not lost:
        return holds(name, seen)
    if not any(each.told_wait for each in lost):
        seen += ", and no refusal stated how long to wait"
    return broken(name, seen, f"an answer within {TRIES} tries, each after the wait that the server states")


def _silence(replies: list[Reply]) -> Result:
    name = "time-silence"
    given_up = [each for each in replies if each.status in GIVEN_UP]
    longest = max((each.ttft_s or each.took_s for each in replies if each.served), default=None)
    if longest is None:
        return unmeasured(name, "no request was served")
    if len(given_up) > 1:
        each = min(given_up, key=lambda reply: reply.took_s)
        return broken(name, f"{each.said} after {duration(each.took_s)}", "the server's answer instead of a proxy's")
    seen = f"the longest silence before a served first token: {duration(longest)}"
    return (
        holds(name, seen, silence_s=longest) if not given_up else unmeasured(name, "a proxy gave up one request", seen)
    )


def _first_token(exam: Examination) -> Iterator[Result]:
    points = [
        (each.reply.prompt or each.tokens, each.reply.ttft_s)
        for each in exam.sent
        if each.reply.served and each.reply.ttft_s
    ]
    if len({tokens for tokens, _ in points}) < 2:
        yield unmeasured("time-first-token", "fewer than two lengths were streamed")
        yield unmeasured("time-law", "fewer than two lengths were streamed")
        return
    by_length: dict[int, list[float]] = {}
    for tokens, ttft_s in points:
        by_length.setdefault(tokens, []).append(ttft_s)
    rows = [
        {
            "tokens": tokens,
            "ttft_s": median(values),
            "least_s": min(values),
            "most_s": max(values),
            "requests": len(values),
        }
        for tokens, values in sorted(by_length.items())
    ]
    ends = [f"{duration(row['ttft_s'])} at {row['tokens']:,} tokens" for row in (rows[0], rows[-1])]
    yield holds("time-first-token", ", ".join(ends), lengths=rows)
    yield _law(points)


def _law(points: list[tuple[int, float]]) -> Result:
    tokens, seconds = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    if np.unique(tokens).size < 3:
        return unmeasured("time-law", "fewer than three lengths were streamed")
    slope, start = np.polyfit(tokens, seconds, 1)
    residual = float(np.max(np.abs(seconds - start - slope * tokens)))
    if slope <= 0:
        return unmeasured("time-law", "the time does not grow with the prompt length", f"residual {duration(residual)}")
    seen = (
        f"{max(0.0, start):.3g} s + {slope * 1000:.3g} s for each 1,000 tokens; largest residual {duration(residual)}"
    )
    return holds("time-law", seen, start_s=float(start), s_per_token=float(slope), residual_s=residual)


def _rate(replies: list[Reply]) -> Result:
    rates = sorted(
        ((each.counts.answer or 0) - 1) / (each.arrivals_s[-1] - each.arrivals_s[0])
        for each in replies
        if each.served
        and each.counts
        and (each.counts.answer or 0) > 8
        and len(each.arrivals_s) > 4
        and each.arrivals_s[-1] > each.arrivals_s[0]
    )
    if not rates:
        return unmeasured("time-rate", "no long answer was streamed in several pieces with a token count")
    seen = (
        f"{median(rates):,.1f} output tokens per second (median of {len(rates)}; {rates[0]:,.1f} to {rates[-1]:,.1f})"
    )
    return holds("time-rate", seen, output_tokens_per_s=median(rates))
