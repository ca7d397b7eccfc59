"""Walk a path, and summarise its readings and their cold controls as evidence."""

from collections.abc import Callable, Sequence
from itertools import islice
from statistics import fmean
from typing import Final

from pytest_longctx.client.exchange import UnservedError
from pytest_longctx.client.state_paths import reading
from pytest_longctx.client.state_paths.reading import Reading
from pytest_longctx.client.state_paths.walk import UnwalkableError, Walk
from pytest_longctx.observation import Observation

_SPARSE: Final = (
    "not taken: a prompt that shares only the beginning of an earlier one was not found in the cache. Layers with windows or "
    "states continue at checkpoints alone, and an engine chooses where it keeps them; vLLM keeps the ends of prompts since "
    "0.33, and more with --prefix-cache-retention-interval"
)
_PROMPTS_ONLY: Final = (
    "not taken: the cache had the earlier prompt, and not the blocks that its answer completed. Layers with windows or states "
    "continue at checkpoints alone; vLLM keeps those of answers only with --prefix-cache-retention-interval, since 0.33"
)


def summary(walk: Walk) -> Observation:
    """
    Return the evidence of *walk*: the comparison of its readings with their cold controls.

    The outcome is None if all answers are right and the path was not taken.
    """
    readings, colds, pieces = walk.readings, walk.colds, walk.pieces
    apart = list(reading.differences(readings, colds))
    certain = [(each, found) for each, found in apart if not found.tied]
    noise, gap = reading.noise_nats(colds), reading.gap_nats(readings, colds)
    shaky = reading.unstable(colds)
    wrong = list(reading.wrong_needles(readings, pieces))
    foreign = _foreign(walk)
    metrics: dict[str, float | None] = {
        "requests": len(readings),
        "answers_changed": None if shaky or len(apart) > len(certain) else len(certain),
        "logprob_noise_nats": noise,
        "logprob_gap_nats": gap,
        "logprob_excess_nats": None if noise is None or gap is None else max(0.0, gap - reading.allowed_nats(noise)),
        "foreign_tokens": foreign,
        **_needles(readings),
        **_hits(walk),
        **walk.counts,
    }
    said = [*wrong, *(reading.place(each, found, pieces) for each, found in certain), _shared(walk), shaky]
    bad = bool(wrong or certain or foreign)
    text = "; ".join(filter(None, (walk.not_taken if not bad else "", *islice(filter(None, said), 3))))
    return Observation("serves" if bad or not walk.not_taken else None, metrics, phase="request", said=text)


def _foreign(walk: Walk) -> float | None:
    """
    Return the largest `Reading.foreign_tokens` of the readings and their controls; no token of a control may be cached.

    None if unknown for a reading. A control whose usage does not report cached tokens is ignored.
    """
    of_path = [each.foreign_tokens for each in walk.readings]
    of_controls = [Reading(each.task, cold).foreign_tokens for each in walk.readings for cold in walk.colds_of(each)]
    known = [tokens for tokens in (*of_path, *of_controls) if tokens is not None]
    return None if None in of_path or not known else max(known)


def _shared(walk: Walk) -> str:
    """Return a note about cached tokens of the walk's cold control, which should have none; empty if it has none."""
    of_controls = (
        Reading(each.task, cold).foreign_tokens or 0 for each in walk.readings for cold in walk.colds_of(each)
    )
    most = max(of_controls, default=0)
    how = "under a cache salt of its own" if walk.server.backend.salted else "after a reset of the cache"
    return f"{most:,} tokens of a prompt that was read {how} came from the cache" if most else ""


def _needles(readings: Sequence[Reading]) -> dict[str, float | None]:
    grades = [grade for each in readings if (grade := each.task.grade(each.exchange.text)) is not None]
    if not grades:
        return {}
    asked = sum(len(grade.steps) for grade in grades)
    right = sum(grade.count("right") for grade in grades)
    made_up = sum(int(grade.denied is False) + int(grade.derailed_at is not None) for grade in grades)
    return {"needles": asked, "needles_right": right, "needles_share": right / asked, "made_up_answers": made_up}


def _hits(walk: Walk) -> dict[str, float | None]:
    """
    Return the lowest ``hit_share`` of the readings with a reusable block, and their cached tokens; empty without such
    readings, None if unknown.
    """
    wanted = [each for each in walk.readings if each.whole_only and each.reusable > walk.block]
    if walk.sparse:
        missed = [each for each in wanted if each.ends_inside and each.exchange.usage.cached_tokens == 0]
        of_prompts = [each for each in wanted if each not in missed and each.without_answer(walk.block)]
        walk.not_taken = walk.not_taken or (_SPARSE if missed else _PROMPTS_ONLY if of_prompts else "")
        wanted = [each for each in wanted if each not in (*missed, *of_prompts)]
    if not wanted:
        return {}
    shares = [each.hit_share(walk.block) for each in wanted]
    known = [share for share in shares if share is not None]
    if walk.caching is False and not any(known):
        walk.not_taken = walk.not_taken or "not taken: the server says that its prefix cache is off"
        return {}
    if len(known) == len(shares) and known and walk.caching is not True and max(known) == 0:
        walk.not_taken = (
            walk.not_taken or "not taken: no prompt was found in the cache, and the server does not say that it has one"
        )
        return {}
    return {"hit_share": min(known) if len(known) == len(shares) else None, "cached_tokens": _mean_cached(wanted)}


def _mean_cached(wanted: Sequence[Reading]) -> float | None:
    known = [each.exchange.usage.cached_tokens for each in wanted]
    counts = [count for count in known if count is not None]
    return fmean(counts) if counts and len(counts) == len(known) else None


def with_controls(walk: Walk) -> None:
    """
    Read the cold controls of *walk*. If the server's cache cannot be emptied, only readings that need no control are
    judged.
    """
    try:
        walk.control()
    except UnwalkableError as problem:
        walk.not_taken = walk.not_taken or f"not compared with a cold reading: {problem}"


Path = Callable[[Walk], None]
"""Function that walks one path: it sends the path's readings, and records whether the path was taken."""


def observe(path: Path, walk: Walk) -> Observation:
    """Walk *path*, read its cold controls, and return the evidence."""
    try:
        before = walk.scrape()
        path(walk)
        with_controls(walk)
        if (corrupted := walk.grown("corrupted_requests", before)) is not None:
            walk.counts["corrupted_requests"] = corrupted
    except UnwalkableError as problem:
        return Observation(None, phase="request", said=f"not taken: {problem}")
    except UnservedError as problem:
        return problem.exchange.observe()
    return summary(walk)
