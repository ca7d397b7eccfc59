"""How far a recorded figure may change before the change is a regression, by the spread of the recorded run."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

_OF_SPEED: Final = ("s", "tokens/s")
"""Units of the figures that a slowdown worsens."""

_SPREAD_OF: Final = {"ttft_s": ("ttft_spread",), "decode_tokens_per_s": ("decode_spread", "ttft_spread")}
"""
The spreads of repeated requests, the figure's own first.

An older run did not record the spread of the decode rate. Then the spread of the time to first token is used, because what
disturbed the first token disturbed the others too.
"""

SIGMAS: Final = 3.0
"""Number of standard errors by which a score may differ. 0.3 % of repetitions differ by more."""

_FACTORS: Final = ((10, 1.0, 0.5), (5, 2.0, 1.0), (REPEATS, 3.0, 3.0))
"""
From a number of runs on: times their range that the tolerance is, and times their range by which a median moves by chance.

The first: the median of as many new normal values is worse by more in 1.2 % of repetitions with 3 runs, in 0.1 % with 5 and in
0.01 % with 10. The second: it is better by more in 1.2, 1.4 and 0.8 % (simulated, 200,000 repetitions). Runs within one boot
differ less than boots do, so the default is the least tolerance.
"""

SLOWDOWN: Final = 0.2
"""The slowdown that a recorded finding should see. A recording that would miss it says so."""
_REMEDY: Final = "repeat the run on an idle machine, with a longer prompt and answer, or with ask.runs = 10 or more"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One figure of a run with its bound."""

    measure: str
    bound: Bound
    seen: str
    """The origin of the tolerance."""
    visible: float | None = None
    """The slowdown from which on it is seen in 99 of 100 runs, as a share of the time; None if the spread is not known."""

    @property
    def void(self) -> bool:
        """Whether the bound of this figure cannot fail: a rate of at least zero."""
        return self.bound.at_least == 0 and self.bound.at_most is None

    @property
    def blind(self) -> bool:
        """Whether the bound of this figure would miss a slowdown of `SLOWDOWN`."""
        return self.visible is not None and self.visible > SLOWDOWN


def of_case(rows: Sequence[Mapping[str, Any]], given: float | None = None) -> Iterator[Recorded]:
    """
    Yield the bound of every figure to record, from the verdict *rows* of one finding on one deployment.

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
    speed = unit in _OF_SPEED
    visible = _visible(share, *_spread(measure, values, rows), rate=unit != "s") if speed else None
    because = f"tolerance {percent} %: {seen}"
    bound = Bound(unit=unit, reference=reference, runs=runs, because=because, **limits)
    return Recorded(measure, bound, because + (_said(visible) if speed else ""), visible)


def derived(measure: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> tuple[float, str, int]:
    """Return the tolerance of *measure* as a share, its origin, and the number of runs behind it."""
    unit = MEASURES[measure].unit
    least = STRAY.get(unit, STRAY_ELSE)
    default = f"the default of {100 * least:g} % for {f'the unit {unit}' if unit else 'a share'}"
    spread, runs = _spread(measure, values, rows)
    if spread is None:
        return (
            least,
            f"no spread is known from {runs} run{'s' if runs > 1 else ''}, so the tolerance is {default}",
            runs,
        )
    factor, _ = _factors(runs)
    own = len(values) >= REPEATS or all(_SPREAD_OF[measure][0] in row["measured"] for row in rows)
    ranged = "ranged" if own else "whose TTFT ranged"
    told = f"{runs} runs {ranged} over {100 * spread:.2g} % of their median"
    if factor * spread <= least:
        return least, f"{told}; {factor:g} times that is at most {default}, so the default is used", runs
    return factor * spread, f"{told}, and the tolerance is {factor:g} times that", runs


def _factors(runs: int) -> tuple[float, float]:
    return next((wide, chance) for least, wide, chance in _FACTORS if runs >= least)


def _visible(share: float, spread: float | None, runs: int, *, rate: bool) -> float | None:
    """
    Return the slowdown that passes a tolerance of *share* although chance improves the median; None for an unknown
    spread.
    """
    if spread is None:
        return None
    chance = _factors(runs)[1] * spread
    better, allowed = (1 + chance, 1 - share) if rate else (1 - chance, 1 + share)
    if min(better, allowed) <= 0:
        return math.inf
    return (better / allowed if rate else allowed / better) - 1


def _said(visible: float | None) -> str:
    if visible is None:
        return "; the smallest detectable slowdown is not known"
    if visible == math.inf:
        return "; no slowdown is certain to be detected"
    return f"; a slowdown of {math.ceil(100 * visible - 1e-9)} % or more is detected"


def warning(figures: Iterable[Recorded]) -> str:
    """
    Return a warning that some of the *figures* would not show a slowdown of `SLOWDOWN`, with advice; empty if all
    would.
    """
    names = [each.measure for each in figures if each.blind]
    if not names:
        return ""
    return (
        f"the spread of this machine is too wide: a slowdown of {100 * SLOWDOWN:g} % would not reliably be detected in "
        f"{' and '.join(names)}; {_REMEDY}"
    )


def _spread(measure: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, int]:
    """Return the range of the repeated *values* over their median (None for fewer than three), and their number."""
    if len(values) >= REPEATS:
        return (max(values) - min(values)) / median(values), len(values)
    asked = [row["measured"] for row in rows if row["measured"].get("runs", 0) >= REPEATS]
    for name in _SPREAD_OF.get(measure, ()) if asked else ():
        if all(name in one for one in asked):
            return max(one[name] for one in asked), int(min(one["runs"] for one in asked))
    return None, len(values)
