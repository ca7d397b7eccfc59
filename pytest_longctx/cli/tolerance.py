"""How far a recorded figure may move before it is a regression. The spread of the recorded run decides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from pytest_longctx.findings.finding import Bound
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports.compare import MORE_IS_BETTER, REPEATS, STRAY, STRAY_ELSE

RECORDED: Final = (
    *("ttft_s", "decode_tokens_per_s"),
    *("output_tokens_per_s", "total_tokens_per_s", "ttft_p50_s", "tpot_p50_s"),
    *("kv_cache_tokens", "max_model_len", "longest_served_tokens"),
    *("accuracy_strict", "accuracy_flexible"),
)
"""
Figures that get a bound. They are independent of each other and of the server. A prefill rate would repeat the TTFT.
"""

OF_ONE_REQUEST: Final = ("ttft_s", "decode_tokens_per_s")
"""Figures of the same requests. A run records the spread of the first. A disturbance affects both."""

SIGMAS: Final = 3.0
"""A score may differ by so many standard errors. 0.3 % of repetitions differ by more."""

FEW_RUNS: Final = 5
_FACTOR: Final = (3.0, 2.0)
"""
A median may differ by so many times the range of the runs: with fewer than `FEW_RUNS`, and with as many or more.

The median of as many new normal values exceeds this in 1.1 % of repetitions with 3 runs, and in 0.1 % with 5
(simulated, 60,000 repetitions). Runs within one boot differ less than boots do, so the default is the minimum.
"""

_WIDE: Final = 0.2
"""With a larger tolerance, an important regression may be missed."""
_WIDE_REMEDY: Final = "repeat the run on an idle machine, or with more ask.runs"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One figure of a run with its bound."""

    measure: str
    bound: Bound
    seen: str
    """The origin of the tolerance."""


def of_case(rows: Sequence[Mapping[str, Any]], given: float | None = None) -> Iterator[Recorded]:
    """
    Return the bounds of every figure to record, from the verdict *rows* of one finding on one deployment.

    *given* is a tolerance as a share. It replaces the derived ones, except for scores. A time is left out if the
    server's cache cannot be observed, because the judge could not distinguish it from a cached time.
    """
    for measure in RECORDED:
        values = [row["measured"][measure] for row in rows if measure in row["measured"]]
        if len(values) < len(rows) or not median(values) > 0:
            continue
        if MEASURES[measure].cold_only and not all("cached_share" in row["measured"] for row in rows):
            continue
        stderr = rows[0]["measured"].get(f"{measure}_stderr")
        yield _scored(measure, median(values), stderr) if stderr else _bounded(measure, values, rows, given)


def _scored(measure: str, value: float, stderr: float) -> Recorded:
    because = f"{SIGMAS:g} standard errors of the difference; the recorded score's own is {stderr:.3g}"
    bound = Bound(unit=MEASURES[measure].unit, reference=value, stderr=stderr, sigmas=SIGMAS, because=because)
    return Recorded(measure, bound, because)


def _bounded(measure: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]], given: float | None) -> Recorded:
    share, seen, runs = (given, "as typed", len(values)) if given is not None else derived(measure, values, rows)
    reference, unit = median(values), MEASURES[measure].unit
    percent = f"{100 * share:.4f}".rstrip("0").rstrip(".")  # a tolerance in a file has no exponent
    limits: dict[str, Any] = {"tolerance": f"{percent}%"}
    if unit == "s":
        limits = {"at_most": float(f"{reference * (1 + share):.6g}")}
    elif unit in MORE_IS_BETTER:
        limits = {"at_least": float(f"{reference * max(0.0, 1 - share):.6g}")}
    because = f"tolerance {percent} %: {seen}"
    return Recorded(measure, Bound(unit=unit, reference=reference, runs=runs, because=because, **limits), because)


def derived(measure: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> tuple[float, str, int]:
    """Return the tolerance of *measure* as a share, its origin, and the number of runs behind it."""
    unit = MEASURES[measure].unit
    least = STRAY.get(unit, STRAY_ELSE)
    default = f"the default of {100 * least:g} % for {f'the unit {unit}' if unit else 'a share'}"
    spread, runs = _spread(measure, values, rows)
    if spread is None:
        return least, f"no spread is known from {runs} run{'s' if runs > 1 else ''}, so it is {default}", runs
    factor = _FACTOR[runs >= FEW_RUNS]
    ranged = "ranged" if measure == "ttft_s" or len(values) >= REPEATS else "whose TTFT ranged"
    said = f"{runs} runs {ranged} over {100 * spread:.2g} % of their median"
    if factor * spread <= least:
        return least, f"{said}; {factor:g} times that is below {default}, which is taken", runs
    wide = f"; a change of less is not seen: {_WIDE_REMEDY}" if factor * spread > _WIDE else ""
    return factor * spread, f"{said}, and it is {factor:g} times that{wide}", runs


def _spread(measure: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, int]:
    """Return the range of the repeated *values* over their median (None for fewer than three), and their number."""
    if len(values) >= REPEATS:
        return (max(values) - min(values)) / median(values), len(values)
    asked = [row["measured"] for row in rows if row["measured"].get("runs", 0) >= REPEATS]
    if measure in OF_ONE_REQUEST and asked and all("ttft_spread" in one for one in asked):
        return max(one["ttft_spread"] for one in asked), int(min(one["runs"] for one in asked))
    return None, len(values)
