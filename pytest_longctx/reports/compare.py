"""
Two runs side by side: what is new, gone, changed or the same, by finding, deployment and figure.

A figure has changed where its median strays from the baseline's by more than its noise: what its repeats show, else what
the finding tolerates, else `STRAY`.

Two backends side by side: only what both were asked on equal terms, the same prompts, cache and decoding on the same machine.

What a run did not record is not known to be equal.

A comparison as Markdown, for a pull request and for a terminal.
"""

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
"""Figures of a fitted law, and their units."""

SEEN = ("repeats", "one length left out")
"""Noise that the runs themselves show."""

REPEATS = 3
"""From so many values on, their spread says something about noise; the spread of two says little."""

STRAY: Mapping[str, float] = {"s": 0.10, "tokens/s": 0.10, "requests/s": 0.10, "GiB/s": 0.10, "x": 0.05}
"""Shares by which a figure of a unit is taken to stray where nothing better is known; `STRAY_ELSE` for all others."""
STRAY_ELSE = 0.01

MORE_IS_BETTER = ("tokens/s", "requests/s", "GiB/s", "x")
"""Units of which less is worse. Of seconds more is worse; of any other unit a change in either direction is."""


class Noise(NamedTuple):
    """A share by which a figure strays without having changed, and how that is known."""

    share: float
    source: str

    def __str__(self) -> str:
        return f"{100 * self.share:.2g} % ({self.source})"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one case in two runs; the measure ``verdict`` has words instead of figures."""

    case: CaseKey
    measure: str
    word: Word
    before: float | str | None = None
    after: float | str | None = None
    noise: Noise | None = None

    @property
    def worse_by(self) -> float | None:
        """The share by which it is worse than before; negative where it is better. None where nothing can be said."""
        if not isinstance(self.before, float) or not isinstance(self.after, float):
            return None
        return worse_by(self.measure, self.before, self.after)


def unit_of(measure: str) -> str:
    """The unit of a measure or of a coefficient."""
    return MEASURES[measure].unit if measure in MEASURES else COEFFICIENTS.get(measure, "")


def worse_by(measure: str, before: float, after: float) -> float:
    """The share by which *after* is worse than *before*."""
    if before == after:
        return 0.0
    change = (after - before) / abs(before) if before else float("inf")
    unit = unit_of(measure)
    if unit == "s":
        return change
    return -change if unit in MORE_IS_BETTER else abs(change)


def noise_of(measure: str, *runs: Samples) -> Noise:
    """How far *measure* strays in the first of *runs* that can say it."""
    spreads = [max(abs(value / median(its) - 1) for value in its) for its in _repeated(measure, runs)]
    if spreads:
        return Noise(max(spreads), SEEN[0])
    left_out = [run.noise[measure] for run in runs if measure in run.noise]
    if left_out:
        return Noise(max(left_out), SEEN[1])
    for run in runs:
        bound = run.bounds.get(measure, {})
        if (tolerated := _tolerated(bound)) is not None:
            return Noise(tolerated, "the finding's tolerance")
    return Noise(STRAY.get(unit_of(measure), STRAY_ELSE), "default")


def _repeated(measure: str, runs: tuple[Samples, ...]) -> Iterator[list[float]]:
    for run in runs:
        its = run.values.get(measure, [])
        if len(its) >= REPEATS and median(its):
            yield its


def _tolerated(bound: Mapping[str, Any]) -> float | None:
    tolerance, reference = bound.get("tolerance"), bound.get("reference")
    if tolerance is None or not reference:
        return None
    number = float(tolerance.removesuffix("%"))
    return number / 100 if tolerance.endswith("%") else number / abs(reference)


def compare(before: Results, after: Results) -> list[Change]:
    """Every figure of both runs, the verdict of each case first."""
    old, new = gather(before), gather(after)
    return [change for case in sorted({*old, *new}) for change in _case(case, old.get(case), new.get(case))]


def _case(case: CaseKey, old: Samples | None, new: Samples | None) -> Iterator[Change]:
    if old is None or new is None:
        yield Change(case, "verdict", "new" if old is None else "gone", _worst(old), _worst(new))
        return
    if case.finding != LAW:
        words = _worst(old), _worst(new)
        yield Change(case, "verdict", "same" if words[0] == words[1] else "changed", *words)
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
    """How much worse than the baseline a figure may be."""

    measure: str
    share: float


def limits(text: str, known: tuple[str, ...] = (*MEASURES, *COEFFICIENTS)) -> tuple[Limit, ...]:
    """
    Limits as they are typed. Raises `UsageError`.

    >>> limits("ttft_s:10%, decode_tokens_per_s:5%")
    (Limit(measure='ttft_s', share=0.1), Limit(measure='decode_tokens_per_s', share=0.05))
    """
    found = []
    for part in text.split(","):
        measure, _, share = (word.strip() for word in part.partition(":"))
        if measure not in known:
            raise UsageError(f"fail-on: {unknown('measure', measure, known)}")
        number = share.removesuffix("%")
        if not share.endswith("%") or not number.replace(".", "", 1).isdecimal():
            raise UsageError(f"fail-on: {part.strip()!r}: write a measure and a share, such as ttft_s:10%")
        found.append(Limit(measure, float(number) / 100))
    return tuple(found)


def held(limit: Limit, old: Samples, seen: float | None) -> Line | None:
    """One figure against its baseline; None where the baseline does not have it. Noise that was seen widens the limit."""
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
    """A baseline and how much worse than it a run may be."""

    baseline: Mapping[CaseKey, Samples]
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, baseline: Results, text: str, known: tuple[str, ...] = (*MEASURES, *COEFFICIENTS)) -> "Gate":
        """From a results file and the limits as typed. Raises `UsageError` where the file holds none of the figures."""
        asked, found = limits(text, known), gather(baseline)
        for limit in asked:
            if not any(limit.measure in its.values for its in found.values()):
                raise UsageError(f"fail-on: the baseline holds no {limit.measure}: nothing would be compared")
        return cls(found, asked)

    def lines(self, finding: str, server: Mapping[str, str], seen: Mapping[str, float | None]) -> Iterator[Line]:
        """What the baseline says of one finding on one server; nothing of a finding that it does not know."""
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
        """Every line of *after* that is over its limit, or whose figure is gone."""
        found = [
            (case, line)
            for case, its in gather(after).items()
            for line in self.lines(
                case.finding, its.server, {name: median(values) for name, values in its.values.items()}
            )
        ]
        if not found:
            raise UsageError("fail-on: the runs have no finding in common that could be compared")
        return [(case, line) for case, line in found if not line.ok]


RECORDED = ("hardware", "model", "seed", "ordinary_ids", "decoding")
"""Facts of a server that must be the same; seed and ids decide the prompts."""
COUNTED = ("prompt_tokens", "completion_tokens")
_SHOWN = 3


def on_equal_terms(before: Results, after: Results) -> tuple[Results, Results]:
    """
    Two runs of one backend as they are; of two backends, the findings that both judged, under one name of deployment.

    Raises `UsageError` with every term that differs.
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
                    f"compare: {called} are compared on equal terms only; these differ, or are not known to be equal:",
                    *lines,
                    "  try      two new runs on one machine, of the same model and with the same --longctx-seed",
                )
            )
        )
    if not common:
        raise UsageError(f"compare: {called} have judged no finding in common")
    return _cut(before, common, names), _cut(after, common, names)


def _by_finding(run: Results) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.verdicts:
        # A claim is about no server and the same for every backend.
        if row["verdict"] in JUDGED and row["server"]:
            found.setdefault(row["finding"], []).append(row)
    return found


def _differing(old: list[Mapping[str, Any]], new: list[Mapping[str, Any]]) -> Iterator[str]:
    """Every term that is not known to be the same in the rows of one finding."""
    for rows in (old, new):
        deployments = sorted({row["server"].get("deployment", "") for row in rows})
        if len(deployments) > 1:
            yield f"judged on more than one deployment: {', '.join(deployments)}"
    for name in RECORDED:
        here, there = ({row["server"].get(name) for row in rows} for rows in (old, new))
        if here != there or None in here:
            yield f"{name}: {_told(here)} against {_told(there)}"
    for name in COUNTED:
        here, there = ({row["measured"].get(name) for row in rows} for rows in (old, new))
        if here != there:
            yield f"{name}: {_told(here)} against {_told(there)}"
    states = [_cache(rows) for rows in (old, new)]
    if states[0] != states[1]:
        yield f"cache: {states[0]} against {states[1]}"


def _cache(rows: list[Mapping[str, Any]]) -> str:
    shares = [row["measured"]["cached_share"] for row in rows if "cached_share" in row["measured"]]
    if not shares:
        return "not recorded"
    return "cold" if median(shares) <= COLD_SHARE else "warm"


def _told(values: set[Any]) -> str:
    known = [f"{value:,.0f}" if isinstance(value, float) else str(value) for value in values if value is not None]
    return " and ".join(sorted(known)) or "not recorded"


def _some(findings: list[str]) -> str:
    more = len(findings) - _SHOWN
    return ", ".join(findings[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cut(run: Results, findings: list[str], names: list[str]) -> Results:
    """*run* with these findings alone, as if its deployment had the name of both backends."""
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
    """The lines of the page: what is over its limit, what changed, and how much did not."""
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
        yield from markdown_table(head, map(_row, rows))


def _row(change: Change) -> tuple[str, ...]:
    worse = "" if change.worse_by is None else f"{100 * change.worse_by:+.3g} %"
    values = (_said(change.measure, change.before), _said(change.measure, change.after))
    return *change.case, f"`{change.measure}`", change.word, *values, worse, str(change.noise or "")


def _said(measure: str, value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else quantity(value, unit_of(measure))
