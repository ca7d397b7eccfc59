"""
History of runs: a folder with one results file for each run, and a baseline that only `set_baseline` changes.

Each entry is a complete results file, so any of them can be reported or compared.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pytest_longctx.errors import ResultsError, unknown
from pytest_longctx.findings.verdicts import WORST_FIRST
from pytest_longctx.reports.analysis import CaseKey, Samples, gather
from pytest_longctx.reports.compare import noise_of, unit_of, worse_by
from pytest_longctx.reports.results import read as read_results
from pytest_longctx.units import quantity

BASELINE = "baseline.jsonl"


class Run(NamedTuple):
    """One run of the store."""

    name: str
    cases: dict[CaseKey, Samples]


class HistoryPoint(NamedTuple):
    """
    The value of a figure in one run. *bad*: worse than the baseline by more than the noise, or the finding did not
    hold.
    """

    run: str
    value: float
    bad: bool


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure of one case over the runs that measured it."""

    case: CaseKey
    measure: str
    readings: tuple[HistoryPoint, ...]
    worse_by: float
    """Relative deterioration of the last value against the baseline."""

    @property
    def first_bad(self) -> str | None:
        """The first run of the bad runs at the end; ``None`` if the last value is good."""
        streak = list(takewhile(lambda reading: reading.bad, reversed(self.readings)))
        return streak[-1].run if streak else None

    def __str__(self) -> str:
        values = " -> ".join(f"{reading.value:.4g}" for reading in self.readings[-6:])
        now = quantity(self.readings[-1].value, unit_of(self.measure))
        since = f"; bad since {self.first_bad}" if self.first_bad else ""
        what = f"{self.case.finding} {self.case.deployment} {self.measure}"
        return f"{what}: {values}; now {now}, {100 * self.worse_by:+.3g} % worse{since}"


def add(store: Path, results: Path) -> str:
    """Store *results* in the history, once for each file, and return the run's name. Raises `ResultsError`."""
    found = read_results(results)
    content = results.read_bytes()
    stamp = re.sub(r"[^0-9]", "", found.header["started"])[:14]
    name = f"{stamp}-{hashlib.sha256(content).hexdigest()[:8]}"
    store.mkdir(parents=True, exist_ok=True)
    (store / f"{name}.jsonl").write_bytes(content)
    return name


def set_baseline(store: Path, name: str) -> Path:
    """Make the stored run *name* the baseline of the history, and return the baseline's path. Raises `ResultsError`."""
    known = [path.stem for path in _files(store)]
    if name not in known:
        raise ResultsError(f"{store}: {unknown('run', name, known)}")
    path = store / BASELINE
    path.write_bytes((store / f"{name}.jsonl").read_bytes())
    return path


def runs(store: Path) -> list[Run]:
    """Return all runs stored in the history, oldest first. Raises `ResultsError`."""
    found = [Run(path.stem, gather(read_results(path))) for path in _files(store)]
    if not found:
        raise ResultsError(f"{store}: this folder contains no run; add one with longctx history add {store} RESULTS")
    return found


def _files(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("*.jsonl") if path.name != BASELINE)


def trends(store: Path, measure: str, finding: str | None = None) -> Iterator[Trend]:
    """Yield the trend of *measure* for every case, against the baseline or, without one, the first run."""
    kept = runs(store)
    baseline = gather(read_results(store / BASELINE)) if (store / BASELINE).exists() else {}
    for case in sorted({case for run in kept for case in run.cases}):
        seen = [(run.name, run.cases[case]) for run in kept if measure in getattr(run.cases.get(case), "values", ())]
        if not seen or finding not in (None, case.finding):
            continue
        good = baseline.get(case, seen[0][1])
        if measure in good.values:
            readings = tuple(_reading(name, its, measure, good) for name, its in seen)
            worse = worse_by(measure, median(good.values[measure]), readings[-1].value)
            yield Trend(case, measure, readings, worse)


def _reading(name: str, its: Samples, measure: str, good: Samples) -> HistoryPoint:
    value = median(its.values[measure])
    strays = worse_by(measure, median(good.values[measure]), value) > noise_of(measure, good, its).share
    word = min(its.words, key=WORST_FIRST.index, default="holds")
    return HistoryPoint(name, value, strays or word in ("broken", "unmeasured"))
