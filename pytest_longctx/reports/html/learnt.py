"""What a run learnt: documented, predicted and measured figures side by side, and the margin to each bound."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Final, NamedTuple

from pytest_longctx.findings.verdicts import ROUNDED_GIB, SIZES_APART
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports.panels import LOGGED_TERMS
from pytest_longctx.reports.results import Results
from pytest_longctx.units import GiB, quantity

Row = Mapping[str, Any]

THIN: Final = 0.2
"""Room to a bound below which a margin is thin."""
TIMED: Final = frozenset({"s", "tokens/s", "requests/s"})
"""Units of figures that scatter between runs: the room of a count says little."""


class Learnt(NamedTuple):
    """One figure of one deployment, with its value from each of the three sources; ``None`` for a source without it."""

    deployment: str
    measure: str
    finding: str
    documented: float | None
    predicted: float | None
    measured: float | None
    room: float | None
    """Distance to the nearest bound, as a share; see `room`."""
    disagrees: bool
    """Whether the prediction and the measurement or the log differ by more than rounding and unlike builds explain."""

    @property
    def unit(self) -> str:
        """The unit of the learnt figure."""
        return MEASURES[self.measure].unit if self.measure in MEASURES else ""

    def shown(self, value: float | None) -> str:
        """Return *value* of the learnt figure with its unit, to four significant digits; empty without a value."""
        if value is None:
            return ""
        return quantity(value if float(value).is_integer() else float(f"{value:.4g}"), self.unit)

    def cells(self) -> tuple[str, ...]:
        """Return, as text, the documented, predicted and measured figure, their differences and the margin."""
        values = (self.documented, self.predicted, self.measured)
        off = (apart(self.measured, self.documented), apart(self.predicted, self.measured))
        return *map(self.shown, values), *map(percent, off), "" if self.room is None else percent(self.room, sign="")


def apart(value: float | None, reference: float | None) -> float | None:
    """Return the share by which a learnt *value* differs from *reference*; ``None`` if either is missing."""
    return None if value is None or not reference else value / reference - 1


def percent(share: float | None, sign: str = "+") -> str:
    """
    Return a share as text in per cent.

    >>> percent(0.031), percent(-0.99), percent(None), percent(0.0)
    ('+3.1 %', '-99 %', '', '0 %')
    """
    if share is None:
        return ""
    rounded = float(f"{100 * share:.2g}")
    return f"{rounded:{sign if rounded else ''},g} %"


def learnt(results: Results) -> list[Learnt]:
    """
    Return every figure of a run with a documented value, a bound or a prediction: disagreements first, then the
    smallest margins.
    """
    boots = {boot.get("deployment", ""): boot for boot in results.boots}
    judged = list(_judged(results, boots))
    known = {(each.deployment, each.measure) for each in judged}
    alone = [each for name, boot in boots.items() for each in _foretold(name, boot) if each[:2] not in known]
    return sorted((*judged, *alone), key=_order)


def _order(each: Learnt) -> tuple[bool, bool, float, str, str]:
    left = each.room if each.room is not None else float("inf")
    return not each.disagrees, each.unit not in TIMED, left, each.deployment, each.measure


def thinnest(found: list[Learnt], most: int = 3) -> list[Learnt]:
    """Return the learnt figures that scatter between runs and have the smallest margin to a bound that they still meet."""
    timed = [each for each in found if each.unit in TIMED and each.room is not None and each.room >= 0]
    return sorted(timed, key=lambda each: each.room or 0.0)[:most]


def _judged(results: Results, boots: Mapping[str, Row]) -> Iterator[Learnt]:
    values: dict[tuple[str, str, str], list[float]] = {}
    bounds: dict[tuple[str, str, str], Row] = {}
    for row in results.verdicts:
        if row["verdict"] not in ("holds", "broken", "known"):
            continue
        for measure, bound in row.get("bounds", {}).items():
            if measure in row["measured"]:
                case = (row["server"].get("deployment", ""), measure, row["finding"])
                values.setdefault(case, []).append(row["measured"][measure])
                bounds[case] = bound
    for (name, measure, finding), its in values.items():
        bound, middle = bounds[name, measure, finding], median(its)
        documented = bound.get("reference", bound.get("exactly"))
        predicted = _predictions(boots.get(name, {})).get(measure)
        low, high = limits(bound)
        if predicted is None and (low == high or documented == 0):
            continue  # a count that must be exact says nothing more than its verdict
        yield Learnt(
            name,
            measure,
            finding,
            documented,
            predicted,
            middle,
            None if low == high else room(middle, low, high),
            _disagrees(measure, predicted, middle, boots.get(name, {})),
        )


def _foretold(name: str, boot: Row) -> Iterator[Learnt]:
    seen = boot.get("figures", {})
    for measure, predicted in _predictions(boot).items():
        logged = logged_concurrency(seen) if measure == "concurrency" else seen.get(measure)
        if logged is not None:
            disagrees = _disagrees(measure, predicted, logged, boot)
            yield Learnt(name, measure, "", None, predicted, logged, None, disagrees)


def _predictions(boot: Row) -> dict[str, float]:
    """Return the predicted figures of a boot by the name of the figure that its log would have."""
    expected = boot.get("predicted") or {}
    sizes = {term["name"]: term["size_bytes"] / GiB for term in expected.get("terms", ()) if not term["host"]}
    failing = expected.get("failing_bytes")
    found = {
        "concurrency": expected.get("concurrency"),
        "longest_fitting_tokens": expected.get("longest_tokens"),
        "allocation_gib": failing / GiB if isinstance(failing, int | float) else None,
        **{key: sizes.get(term) for term, key in LOGGED_TERMS.items()},
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _disagrees(measure: str, predicted: float | None, seen: float, boot: Row) -> bool:
    if predicted is None or abs(predicted - seen) <= SIZES_APART * abs(seen) + ROUNDED_GIB:
        return False
    terms = (boot.get("predicted") or {}).get("terms", ())
    term: Row = next((each for each in terms if LOGGED_TERMS.get(each["name"]) == measure), {})
    bounds = term.get("bounds_bytes")
    if isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(each, int | float) for each in bounds):
        return not bounds[0] / GiB - ROUNDED_GIB <= seen <= bounds[1] / GiB + ROUNDED_GIB
    return True


def limits(bound: Row) -> tuple[float | None, float | None]:
    """
    Return the lowest and the highest allowed value of a learnt figure's recorded bound; ``None`` for an open
    side.

    >>> limits({"reference": 2.0, "tolerance": "10%"})
    (1.8, 2.2)
    """
    if (exactly := bound.get("exactly")) is not None:
        return exactly, exactly
    reference, tolerance = bound.get("reference"), bound.get("tolerance")
    if reference is None or tolerance is None:
        return bound.get("at_least"), bound.get("at_most")
    number = float(tolerance.removesuffix("%"))
    margin = abs(reference) * number / 100 if tolerance.endswith("%") else number
    return reference - margin, reference + margin


def room(value: float, low: float | None, high: float | None) -> float | None:
    """
    Return the margin of *value* to its bounds, as a share of half the tolerance between two bounds, or of the only
    bound. Negative if a bound is missed; ``None`` without a bound other than zero.

    >>> room(2.0, 1.5, 2.5), room(3.0, None, 4.0), room(5.0, None, 4.0)
    (1.0, 0.25, -0.25)
    """
    if low is not None and high is not None:
        return min(value - low, high - value) / ((high - low) / 2) if high > low else None
    if low:
        return (value - low) / abs(low)
    return (high - value) / abs(high) if high else None


def logged_concurrency(seen: Mapping[str, float]) -> float | None:
    """
    Return the logged number of full-context requests that fit; if not logged, from the free memory and the refusal.
    None if unknown.
    """
    if "concurrency" in seen or not seen.get("kv_needed_gib"):
        return seen.get("concurrency")
    return seen["kv_available_gib"] / seen["kv_needed_gib"] if "kv_available_gib" in seen else None
