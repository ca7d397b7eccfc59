"""Convert answers that depend on distant context to evidence: needles and ladder of the probe, and needles in real text."""

import re
from collections.abc import Sequence
from dataclasses import replace

from pytest_longctx.findings.intervals import interval
from pytest_longctx.observation import Observation
from pytest_longctx.probe.grading import Grade, Precision
from pytest_longctx.prompts.needles import Haystack, repetition, score
from pytest_longctx.prompts.ruler.build import Posed


def from_probe(seen: Observation, grade: Grade) -> Observation:
    """Return *seen*, the observation of the probe's exchange, with the grade of its retrieval."""
    failures = grade.failures
    metrics = {
        "needles": len(grade.steps),
        "needles_right": grade.count("right"),
        "first_failed_depth": failures[0].depth if failures else None,
        "last_failed_depth": failures[-1].depth if failures else None,
        "made_up_answers": int(grade.denied is False) + int(grade.derailed_at is not None),
    }
    return replace(seen, metrics={**seen.metrics, **metrics}, said=seen.said or ("" if grade.sound else str(grade)))


def places(grade: Grade) -> tuple[tuple[float, float], ...]:
    """Return depth and score of each needle of the retrieval questions, without needles that the answer did not reach."""
    return tuple((step.depth, float(step.outcome == "right")) for step in grade.steps if step.outcome != "not reached")


def measured(seen: Observation, precision: Precision) -> Observation:
    """Return *seen*, the observation of the probe's exchange, with the KV cache precision that its ladder measured."""
    metrics = {
        "kv_mantissa_bits": precision.mantissa_bits,
        "kv_relative_step": precision.relative_step,
        "kv_ladder_breaks": precision.breaks,
    }
    return replace(seen, metrics={**seen.metrics, **metrics}, said=seen.said or str(precision))


def from_haystacks(asked: Sequence[tuple[Haystack, Observation, str]]) -> Observation:
    """
    Return one observation of needle retrieval at several lengths and depths. If one test was not served, return the
    first such test.
    """
    unserved = next((seen for _, seen, _ in asked if seen.outcome != "serves"), None)
    if unserved is not None:
        return unserved
    missed = [(hay, text) for hay, _, text in asked if not score(text, hay.needle.expected)]
    wrong = [f"{len(hay.prompt):,} tokens at depth {hay.depth:.0%}: {text.strip()[:60]!r}" for hay, text in missed[:3]]
    shares = [seen.metrics.get("cached_share") for _, seen, _ in asked]
    known = [share for share in shares if share is not None]
    metrics: dict[str, float | None] = {
        "needles": len(asked),
        "needles_right": len(asked) - len(missed),
        "needles_share": (len(asked) - len(missed)) / len(asked),
        "repetitive_answers": sum(repetition(text) is not None for _, _, text in asked),
        "miscounted_prompts": sum(seen.metrics.get("prompt_tokens") != seen.sent_tokens for _, seen, _ in asked),
        "cached_share": max(known) if len(known) == len(asked) else None,
    }
    return Observation("serves", metrics, phase="request", said="; ".join(wrong))


def from_ruler(asked: Sequence[tuple[Posed, Observation, str]]) -> Observation:
    """
    Return one observation of the answers to prompts of one RULER task: the mean published score with its interval.

    If one was not served, return the first such answer.
    """
    unserved = next((seen for _, seen, _ in asked if seen.outcome != "serves"), None)
    if unserved is not None:
        return unserved
    scores = [posed.score(text) for posed, _, text in asked]
    low, high = interval(sum(scores), len(scores))
    wrong = [
        f"{len(posed.prompt):,} tokens: {text.strip()[:60]!r} for {', '.join(posed.expected)[:60]!r}"
        for (posed, _, text), score in zip(asked, scores, strict=True)
        if score < 1
    ]
    metrics: dict[str, float | None] = {
        "ruler_prompts": len(asked),
        "ruler_score": sum(scores) / len(scores),
        "ruler_score_low": low,
        "ruler_score_high": high,
        "empty_answers": sum(not text.strip() for _, _, text in asked),
        "miscounted_prompts": sum(seen.metrics.get("prompt_tokens") != seen.sent_tokens for _, seen, _ in asked),
    }
    return Observation("serves", metrics, phase="request", said="; ".join(wrong[:3]))


def from_continuations(asked: Sequence[tuple[str, str, Observation, str]]) -> Observation:
    """
    Return one observation of texts, each with its expected continuation, its observation and its answer.

    If one was not served, return the first such observation.
    """
    unserved = next((seen for _, _, seen, _ in asked if seen.outcome != "serves"), None)
    if unserved is not None:
        return unserved
    wrong = [(text, answer) for text, expected, _, answer in asked if not continues(answer, expected)]
    metrics: dict[str, float | None] = {"continuations": len(asked), "continuations_right": len(asked) - len(wrong)}
    said = "; ".join(f"{text!r} {answer.strip()[:40]!r}" for text, answer in wrong[:3])
    return Observation("serves", metrics, phase="request", said=said)


def continues(answer: str, expected: str) -> bool:
    """
    Return whether *answer* begins with the words *expected*, in any case, after spaces and quotation marks.

    >>> continues(" Paris.", "Paris"), continues(" Parisian", "Paris"), continues("It is Paris", "Paris")
    (True, False, False)
    """
    return re.match(rf"[\s\"'*]*{re.escape(expected)}(?!\w)", answer, re.IGNORECASE) is not None
