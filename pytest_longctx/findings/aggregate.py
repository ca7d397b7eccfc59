"""Aggregate repeated measurements into one: the median, the worst value of exact figures, or a law fitted over lengths."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from types import MappingProxyType

from pytest_longctx.findings import ttft_law
from pytest_longctx.observation import Observation

_Pick = Callable[[Sequence[float], float], float]


def _farthest(values: Sequence[float], wanted: float) -> float:
    return max(values, key=lambda value: abs(value - wanted))


def _highest(values: Sequence[float], _: float) -> float:
    return max(values)


WORST: Mapping[str, _Pick] = MappingProxyType(
    {
        **dict.fromkeys(
            ("prompt_tokens", "completion_tokens", "server_prompt_tokens", "server_completion_tokens"), _farthest
        ),
        **dict.fromkeys(("cached_tokens", "cached_share", "peak_share"), _highest),
        "ttft_gap_s": lambda values, _: max(values, key=abs),
    }
)
"""Figures that one bad measurement invalidates and a median would hide, with the function that selects the worst value."""

SPREADS: Mapping[str, str] = MappingProxyType({"ttft_spread": "ttft_s", "decode_spread": "decode_tokens_per_s"})
"""Spreads that are kept of repeated measurements, each with its figure."""


def summary(readings: Sequence[Observation]) -> Observation:
    """
    Return one observation of repeated measurements of one question. If one was not served, return the first such
    measurement.

    A figure that is missing from one measurement is None. A spread is (largest - smallest) / median.
    """
    unserved = next((each for each in readings if each.outcome != "serves"), None)
    if unserved is not None or len(readings) == 1:
        return unserved or readings[0]
    first = readings[0]
    metrics = {name: _one(name, [each.metrics.get(name) for each in readings], first) for name in first.metrics}
    spreads = {name: _spread([each.metrics.get(of) for each in readings]) for name, of in SPREADS.items()}
    return replace(first, metrics={**metrics, "runs": len(readings), **spreads})


def _one(name: str, values: Sequence[float | None], first: Observation) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    wanted = (first.asked_tokens if "completion" in name else first.sent_tokens) or 0
    return WORST[name](known, wanted) if name in WORST else median(known)


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return (max(known) - min(known)) / median(known) if known and len(known) == len(values) else None


def conversation(turns: Sequence[Observation]) -> Observation:
    """
    Return one observation of a conversation: the metrics of the first turn and the cache reuse of later turns.

    ``reused_share`` is the minimum of cached tokens / tokens of the turn before. Answer tokens are not counted, because
    a conversation of random ids replaces them. If a turn was not served, return the first such turn.
    """
    for number, each in enumerate(turns):
        if each.outcome != "serves":
            return replace(each, said=f"turn {number + 1}: {each.said}")
    first, later = turns[0], turns[1:]
    reused = [
        _share(after.metrics.get("cached_tokens"), before.sent_tokens)
        for before, after in zip(turns, later, strict=False)
    ]
    times_s = [each.metrics.get("ttft_s") for each in later]
    first_s, later_s = first.metrics.get("ttft_s"), _known(times_s, median)
    speedup = first_s / later_s if first_s and later_s else None
    return replace(first, metrics={**first.metrics, "reused_share": _known(reused, min), "turn_speedup": speedup})


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _known(values: Sequence[float | None], pick: Callable[[Sequence[float]], float]) -> float | None:
    """Return the value that *pick* makes of all values; None if a value is missing."""
    known = [value for value in values if value is not None]
    return pick(known) if len(known) == len(values) else None


def length_sweep(points: Sequence[Observation]) -> Observation:
    """
    Return one observation of readings at several lengths: the fitted law t = a N + b N^2, with N in millions of tokens.

    ``law_error`` is the largest relative deviation of a reading from the fitted law. If a point was not served, return
    the first such point.
    """
    unserved = next((each for each in points if each.outcome != "serves"), None)
    if unserved is not None:
        return replace(unserved, said=f"{unserved.sent_tokens or 0:,} tokens: {unserved.said}")
    metrics = {"cached_share": _known([each.metrics.get("cached_share") for each in points], max)}
    readings = [(each.sent_tokens, each.metrics.get("ttft_s")) for each in points]
    measured = [(tokens, seconds) for tokens, seconds in readings if tokens and seconds]
    if len(measured) < len(points):
        return Observation("serves", {**metrics, "law_linear_s": None, "law_quadratic_s": None, "law_error": None})
    law = ttft_law.fit(measured)
    error = max(abs(law.seconds(tokens) / seconds - 1) for tokens, seconds in measured)
    message = ", ".join(f"{tokens:,} tokens {seconds:.3g} s" for tokens, seconds in measured)
    found = {"law_linear_s": law.linear_s * 1e6, "law_quadratic_s": law.quadratic_s * 1e12, "law_error": error}
    return Observation("serves", {**metrics, **found}, phase="request", said=message)
