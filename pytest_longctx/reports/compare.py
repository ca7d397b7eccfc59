"""
Compare two runs by finding, deployment and figure, as Markdown for a pull request or as text for a terminal.

A figure counts as changed if its median differs from the baseline's by more than its noise. The noise is taken from the
repeats, else from the tolerance of the finding, else from `STRAY`.

Two backends are compared only where both ran on equal terms: the same prompts, cache state, decoding and machine. A
condition that a run did not record does not count as equal.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal, NamedTuple

from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.verdicts import COLD_SHARE, JUDGED, WORST_FIRST, Line
from pytest_longctx.measures import MEASURES
from pytest_longctx.reports.analysis import LAW, CaseKey, Samples, gather
from pytest_longctx.reports.pages import markdown_table
from pytest_longctx.reports.results import Results
from pytest_longctx.units import quantity

Word = Literal["new", "gone", "changed", "same"]

COEFFICIENTS: Mapping[str, str] = {"law_linear_s": "s", "law_quadratic_s": "s"}
"""Figures of a fitted law and their units."""

SEEN = ("repeats", "one length left out")
"""Noise sources that the runs themselves measured."""

REPEATS = 3
"""Minimum number of values from which the spread is used as noise. The spread of two values is too uncertain."""

STRAY: Mapping[str, float] = {"s": 0.10, "tokens/s": 0.10, "requests/s": 0.10, "GiB/s": 0.10, "x": 0.05}
"""Default noise by unit, as a share. `STRAY_ELSE` applies to all other units."""
STRAY_ELSE = 0.01

MORE_IS_BETTER = ("tokens/s", "requests/s", "GiB/s", "x")
"""Units for which a lower value is worse. For seconds a higher value is worse; for other units any change is."""


class Noise(NamedTuple):
    """The relative change that does not count as a difference, and the source of that number."""

    share: float
    source: str

    def __str__(self) -> str:
        return f"{100 * self.share:.2g} % ({self.source})"


@dataclass(frozen=True, slots=True)
class Change:
    """The values of one figure of one case in two runs. The measure ``verdict`` has labels instead of figures."""

    case: CaseKey
    measure: str
    word: Word
    before: float | str | None = None
    after: float | str | None = None
    noise: Noise | None = None

    @property
    def worse_by(self) -> float | None:
        """Relative deterioration of the compared figure; negative if improved, ``None`` if unknown."""
        if not isinstance(self.before, float) or not isinstance(self.after, float):
            return None
        return worse_by(self.measure, self.before, self.after)


def unit_of(measure: str) -> str:
    """Return the unit of a compared measure or coefficient."""
    return MEASURES[measure].unit if measure in MEASURES else COEFFICIENTS.get(measure, "")


def worse_by(measure: str, before: float, after: float) -> float:
    """Return the share by which *after* is worse than *before*, by the direction of the measure's unit."""
    if before == after:
        return 0.0
    change = (after - before) / abs(before) if before else float("inf")
    unit = unit_of(measure)
    if unit == "s":
        return change
    return -change if unit in MORE_IS_BETTER else abs(change)


_ROUNDING = 1e-9
"""Least noise of a measured figure, as a share. Exact values differ by rounding from one version of NumPy to the next."""


def noise_of(measure: str, *runs: Samples) -> Noise:
    """Return the noise of a compared *measure* from the first of *runs* that provides it."""
    spreads = [max(abs(value / middle - 1) for value in its) for its, middle in _repeated(measure, runs)]
    if spreads:
        return Noise(max(*spreads, _ROUNDING), SEEN[0])
    left_out = [run.noise[measure] for run in runs if measure in run.noise]
    if left_out:
        return Noise(max(*left_out, _ROUNDING), SEEN[1])
    for run in runs:
        bound = run.bounds.get(measure, {})
        if (tolerated := _tolerated(bound)) is not None:
            return Noise(tolerated, "the finding's tolerance")
    return Noise(STRAY.get(unit_of(measure), STRAY_ELSE), "default")


def _repeated(measure: str, runs: tuple[Samples, ...]) -> Iterator[tuple[list[float], float]]:
    """Yield the values of each compared run that repeated *measure*, and their median."""
    for run in runs:
        its = run.values.get(measure, [])
        if len(its) >= REPEATS and (middle := median(its)):
            yield its, middle


def _tolerated(bound: Mapping[str, Any]) -> float | None:
    tolerance, reference = bound.get("tolerance"), bound.get("reference")
    if tolerance is None or not reference:
        return None
    number = float(tolerance.removesuffix("%"))
    return number / 100 if tolerance.endswith("%") else number / abs(reference)


def compare(before: Results, after: Results) -> list[Change]:
    """Return the comparison of every figure of both runs, with the verdict of each case first."""
    old, new = gather(before), gather(after)
    return [change for case in sorted({*old, *new}) for change in _case(case, old.get(case), new.get(case))]


def _case(case: CaseKey, old: Samples | None, new: Samples | None) -> Iterator[Change]:
    if old is None or new is None:
        yield Change(case, "verdict", "new" if old is None else "gone", _worst(old), _worst(new))
        return
    if case.finding != LAW:
        labels = _worst(old), _worst(new)
        yield Change(case, "verdict", "same" if labels[0] == labels[1] else "changed", *labels)
    for measure in sorted({*old.values, *new.values}):
        pair = (old.values.get(measure), new.values.get(measure))
        if pair[0] is None or pair[1] is None:
            first, second = (None if its is None else median(its) for its in pair)
            yield Change(case, measure, "new" if first is None else "gone", first, second)
            continue
        noise = noise_of(measure, old, new)
        change = Change(case, measure, "same", median(pair[0]), median(pair[1]), noise)
        yield replace(change, word="changed") if abs(change.worse_by or 0.0) > noise.share else change


def _worst(its: Samples | None) -> str | None:
    return min(its.words, key=WORST_FIRST.index) if its and its.words else None


class Limit(NamedTuple):
    """Allowed relative deterioration of a figure against the baseline."""

    measure: str
    share: float


def limits(text: str, known: tuple[str, ...] = (*MEASURES, *COEFFICIENTS)) -> tuple[Limit, ...]:
    """
    Return the limits of deterioration in the text of ``--fail-on``. Raises `UsageError`.

    >>> limits("ttft_s:10%, decode_tokens_per_s:5%")
    (Limit(measure='ttft_s', share=0.1), Limit(measure='decode_tokens_per_s', share=0.05))
    """
    found = []
    for part in text.split(","):
        measure, _, share = (word.strip() for word in part.partition(":"))
        if measure not in known:
            raise UsageError(f"fail-on: {unknown('measure', measure, known)}")
        number = share.removesuffix("%")
        if not share.endswith("%") or re.fullmatch(r"[0-9]{1,6}(\.[0-9]{0,6})?|\.[0-9]{1,6}", number) is None:
            raise UsageError(f"fail-on: {part.strip()!r}: write a measure and a share, such as ttft_s:10%")
        found.append(Limit(measure, float(number) / 100))
    return tuple(found)


def held(limit: Limit, old: Samples, seen: float | None) -> Line | None:
    """
    Return the comparison of one figure with its limit; ``None`` if the baseline lacks the figure. Measured noise widens
    the limit.
    """
    if limit.measure not in old.values:
        return None
    before, unit = median(old.values[limit.measure]), unit_of(limit.measure)
    noise = noise_of(limit.measure, old)
    share = max(limit.share, noise.share) if noise.source in SEEN else limit.share
    wanted = f"at most {100 * share:.3g} % worse than {quantity(before, unit)} (baseline)"
    if seen is None:
        return Line(limit.measure, "not observed", wanted, None)
    worse = worse_by(limit.measure, before, seen)
    return Line(limit.measure, f"{quantity(seen, unit)}, {100 * worse:+.3g} % worse", wanted, worse <= share)


@dataclass(frozen=True, slots=True)
class Gate:
    """The baseline, and the allowed deterioration of a run against it."""

    baseline: Mapping[CaseKey, Samples]
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, baseline: Results, text: str, known: tuple[str, ...] = (*MEASURES, *COEFFICIENTS)) -> "Gate":
        """Return the gate of a results file and the typed limits. Raises `UsageError` if the file has none of the figures."""
        asked, found = limits(text, known), gather(baseline)
        for limit in asked:
            if not any(limit.measure in its.values for its in found.values()):
                raise UsageError(
                    f"fail-on: the baseline has no value of {limit.measure}; name another measure or another baseline"
                )
        return cls(found, asked)

    def lines(self, finding: str, server: Mapping[str, str], seen: Mapping[str, float | None]) -> Iterator[Line]:
        """
        Yield the comparison of one finding on one server with the baseline's limits; nothing if the baseline lacks the
        finding.
        """
        old = self.baseline.get(CaseKey(finding, server.get("deployment", "")))
        if old is None:
            return
        here, there = (its.get("hardware", "unknown") for its in (server, old.server))
        if here != there:
            yield Line("baseline", f"of {there}", f"of {here}", None)
            return
        for limit in self.limits:
            if (line := held(limit, old, seen.get(limit.measure))) is not None:
                yield line

    def missed(self, after: Results) -> list[tuple[CaseKey, Line]]:
        """
        Return every line of the run *after* that exceeds its limit against the baseline or whose figure is
        missing.
        """
        found = [
            (case, line)
            for case, its in gather(after).items()
            for line in self.lines(
                case.finding, its.server, {name: median(values) for name, values in its.values.items()}
            )
        ]
        if not found:
            raise UsageError(
                "fail-on: no finding was judged in both runs, so no limit can be checked; compare runs of the same findings"
            )
        return [(case, line) for case, line in found if not line.ok]


RECORDED = ("hardware", "model", "seed", "ordinary_ids", "decoding")
"""Facts of a server that must be equal. The seed and the ids determine the prompts."""
COUNTED = ("prompt_tokens", "completion_tokens")
_SHOWN = 3


def on_equal_terms(before: Results, after: Results) -> tuple[Results, Results]:
    """
    Return both runs for a comparison. Runs of two backends are reduced to the findings that both judged, under one
    deployment name.

    Raises `UsageError` that lists every differing term.
    """
    names = [str(run.header.get("backend")) for run in (before, after)]
    if names[0] == names[1]:
        return before, after
    old, new = _by_finding(before), _by_finding(after)
    common = sorted(old.keys() & new.keys())
    unlike: dict[str, list[str]] = {}
    for finding in common:
        for term in _differing(old[finding], new[finding]):
            unlike.setdefault(term, []).append(finding)
    called = " and ".join(names)
    if unlike:
        lines = (f"  {term} ({_some(findings)})" for term, findings in unlike.items())
        raise UsageError(
            "\n".join(
                (
                    f"compare: {called} can only be compared on equal terms; these terms differ or were not recorded:",
                    *lines,
                    "  try      two new runs on one machine, of the same model and with the same --longctx-seed",
                )
            )
        )
    if not common:
        raise UsageError(f"compare: {called} have no judged finding in common; run the same findings on both")
    return _cut(before, common, names), _cut(after, common, names)


def _by_finding(run: Results) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.verdicts:
        # A claim concerns no server and is equal for every backend.
        if row["verdict"] in JUDGED and row["server"]:
            found.setdefault(row["finding"], []).append(row)
    return found


def _differing(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every term of a comparison that is not known to be equal in the rows of one finding."""
    for rows in (old, new):
        deployments = sorted({row["server"].get("deployment", "") for row in rows})
        if len(deployments) > 1:
            yield f"judged on more than one deployment: {', '.join(deployments)}"
    for name in RECORDED:
        here, there = ({row["server"].get(name) for row in rows} for rows in (old, new))
        if here != there or None in here:
            yield f"{name}: {_reported(here)} against {_reported(there)}"
    for name in COUNTED:
        here, there = ({row["measured"].get(name) for row in rows} for rows in (old, new))
        if here != there:
            yield f"{name}: {_reported(here)} against {_reported(there)}"
    states = [_cache(rows) for rows in (old, new)]
    if states[0] != states[1]:
        yield f"cache: {states[0]} against {states[1]}"


def _cache(rows: list[Mapping[str, Any]]) -> str:
    shares = [row["measured"]["cached_share"] for row in rows if "cached_share" in row["measured"]]
    if not shares:
        return "not recorded"
    return "cold" if median(shares) <= COLD_SHARE else "warm"


def _reported(values: set[Any]) -> str:
    known = [f"{value:,.0f}" if isinstance(value, float) else str(value) for value in values if value is not None]
    return " and ".join(sorted(known)) or "not recorded"


def _some(findings: list[str]) -> str:
    more = len(findings) - _SHOWN
    return ", ".join(findings[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cut(run: Results, findings: list[str], names: list[str]) -> Results:
    """Return *run* restricted to the findings compared, with the names of both backends as deployment name."""
    rows = [
        {**row, "server": {**row["server"], "deployment": " : ".join(names)}}
        for row in run.verdicts
        if row["finding"] in findings and row["server"]
    ]
    return replace(run, verdicts=rows)


_SHOWN_ROWS: tuple[Word, ...] = ("changed", "gone", "new")
_FACTS = ("engine", "model", "hardware")


def page(
    before: Results, after: Results, changes: Sequence[Change], missed: Sequence[tuple[CaseKey, Line]]
) -> Iterator[str]:
    """Yield the lines of a comparison's page: exceeded limits, changes, and the number of unchanged figures."""
    counts = Counter(change.word for change in changes)
    yield "## " + ", ".join(f"{counts[word]} {word}" for word in (*_SHOWN_ROWS, "same"))
    yield f"\nBaseline of {before.header['started']}, run of {after.header['started']}."
    for name in _FACTS:
        old, new = (sorted({boot[name] for boot in run.boots if name in boot}) for run in (before, after))
        if old != new:
            yield f"\n{name}: {', '.join(old) or 'unknown'} before, {', '.join(new) or 'unknown'} now."
    if missed:
        yield "\n### Over the limit\n"
        yield from (f"- **{case.finding}** {case.deployment}: {line}" for case, line in missed)
    rows = [change for word in _SHOWN_ROWS for change in changes if change.word == word]
    if rows:
        yield ""
        head = ("finding", "deployment", "figure", "", "before", "after", "worse by", "noise")
        yield from markdown_table(head, map(cells, rows))


def cells(change: Change) -> tuple[str, ...]:
    """
    Return the table cells of one compared change: finding, deployment, figure, word, before, after, worse by,
    noise.
    """
    worse = "" if change.worse_by is None else f"{100 * change.worse_by:+.3g} %"
    values = (_said(change.measure, change.before), _said(change.measure, change.after))
    return *change.case, f"`{change.measure}`", change.word, *values, worse, str(change.noise or "")


def _said(measure: str, value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else quantity(value, unit_of(measure))
