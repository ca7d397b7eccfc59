"""
Workloads of a results file: requests of one length, or one load, with their observed figures.

Formats of other tools state a mean and percentiles over equal requests. A test of this package may send requests of several
lengths, or the same prompt again. So a test is a workload only if its figures are surely those of equal requests; every other one
is left out, by name.
"""

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any, Final

from pytest_longctx.reports.results import Results

PERCENTILES: Final = (50, 90, 99)
_LONGEST: Final = 200
"""Longest file name in characters, without number and ending."""
_ROUNDING: Final = 1e-6
"""Relative. A verdict's figures have nine significant digits."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of one figure over the requests of a workload, in the figure's unit; None if not observed."""

    mean: float | None = None
    least: float | None = None
    most: float | None = None
    percentiles: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """
        Return the spread of observed *values*, with the median as the only percentile, because few values have no
        other.
        """
        return cls(statistics.fmean(values), min(values), max(values), {50: statistics.median(values)})


@dataclass(frozen=True, slots=True)
class Workload:
    """The equal requests of one test, or its load, all answered. Times are in s, lengths in tokens, rates per s."""

    verdict: Mapping[str, Any]
    """The row of the verdict that judged the requests."""
    requests: int
    lasted_s: tuple[float, float]
    """From the start of the first request to the end of the last, in seconds since 1970."""
    input_tokens: Spread
    figures: Mapping[str, Spread]
    """``ttft_s``, ``e2e_s``, ``tpot_s``, ``gap_s`` (between chunks), ``output_tokens``, as far as they were observed."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """``requests_per_s``, ``output_tokens_per_s``, ``total_tokens_per_s`` of a load."""
    judged: tuple[Mapping[str, Any], ...] = ()
    """The rows of the requests, each with its ``ttft_s``; empty for a load."""

    @property
    def load(self) -> bool:
        """Whether the requests were a load. Otherwise, they were sent one after the other."""
        return "requests" in self.verdict["measured"]


@dataclass(frozen=True, slots=True)
class Workloads:
    """All workloads of a run, and the other tests, each with the reason why it is not a workload."""

    found: tuple[Workload, ...]
    left_out: Mapping[str, str]


def workloads(results: Results) -> Workloads:
    """Return the workloads of *results*, in the order of its verdicts."""
    sent: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results.requests:
        sent[row.get("test", "")].append(row)
    judged: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in results.verdicts:
        judged[row["test"]].append(row)
    found, left_out = [], {}
    for test, verdicts in judged.items():
        made = _workload(verdicts, sent[test])
        if isinstance(made, str):
            left_out[test] = made
        else:
            found.append(made)
    return Workloads(tuple(found), left_out)


def names(found: Sequence[Workload]) -> dict[str, Workload]:
    """
    Return the workloads by names for their files: the finding and the deployment, with a number if several have one
    name.
    """
    made: dict[str, Workload] = {}
    for each in found:
        stem = re.sub(r"[^\w.-]+", "-", f"{each.verdict['finding']}-{each.verdict['server'].get('deployment', '')}")[
            :_LONGEST
        ]
        name = next(name for name in chain([stem], (f"{stem}.{at}" for at in count(2))) if name not in made)
        made[name] = each
    return made


def _workload(verdicts: Sequence[dict[str, Any]], sent: Sequence[dict[str, Any]]) -> Workload | str:
    """Return the workload of one test, or the reason why the test is not a workload."""
    if len(verdicts) > 1:
        return "it judges several findings"
    if not sent:
        return "the results do not record the requests"
    loads = [row for row in sent if row.get("requests")]
    if loads:
        return _load(verdicts[0], loads[0]) if len(sent) == 1 else "it sends more than one load"
    return _requests(verdicts[0], sent)


def _load(verdict: dict[str, Any], row: dict[str, Any]) -> Workload | str:
    measured, requests = verdict["measured"], row["requests"]
    if measured.get("requests") != requests or "ttft_mean_s" not in measured:
        return "the load has no measured values; a request of the load may not have been served"
    if row.get("sent_tokens") is None:
        return "the results do not record the prompt lengths"
    figures = {
        name: spread
        for name, stem in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("gap_s", "itl"))
        if (spread := _recorded(measured, stem)).mean is not None
    }
    if "output_tokens_per_s" in measured and "load_s" in measured:
        figures["output_tokens"] = Spread(mean=measured["output_tokens_per_s"] * measured["load_s"] / requests)
    rates = {
        name: measured[name]
        for name in ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s")
        if name in measured
    }
    length = Spread(mean=row["sent_tokens"] / requests)
    return Workload(verdict, requests, (row["started_s"], row["ended_s"]), length, figures, rates)


def _recorded(measured: Mapping[str, float], stem: str) -> Spread:
    """Return the mean and the percentiles that a load recorded of one figure."""
    percentiles = {at: measured[key] for at in PERCENTILES if (key := f"{stem}_p{at}_s") in measured}
    return Spread(measured.get(f"{stem}_mean_s"), percentiles=percentiles)


def _requests(verdict: dict[str, Any], sent: Sequence[dict[str, Any]]) -> Workload | str:
    """
    Return the workload of the last requests of a test, which the verdict judged, or the reason against one. Earlier
    requests were warm-up.
    """
    measured = verdict["measured"]
    runs = int(measured.get("runs", 1))
    judged = sent[-runs:]
    if "runs" not in measured and len(sent) > 1:
        return "the test sends several requests, and the results do not cover all of them"
    if any(row.get("ending") not in {None, "complete"} for row in judged):
        return "not every request was answered"
    if len(judged) < runs or any(row.get("ending") is None or row.get("ttft_s") is None for row in judged):
        return "the results do not record each request separately"
    lengths = {row.get("sent_tokens") for row in judged}
    length = next(iter(lengths))
    if len(lengths) > 1 or length is None:
        return "the requests have different lengths"
    ttft_s = Spread.of([row["ttft_s"] for row in judged])
    if not math.isclose(ttft_s.percentiles[50], measured.get("ttft_s", -1), rel_tol=_ROUNDING):
        return "the measured values do not belong to the last requests"
    figures = {"ttft_s": ttft_s, **dict(_medians(measured, alone=runs == 1))}
    lasted_s = judged[0]["started_s"], judged[-1]["ended_s"]
    return Workload(verdict, runs, lasted_s, Spread.of([length] * runs), figures, judged=tuple(judged))


def _medians(measured: Mapping[str, float], *, alone: bool) -> Iterator[tuple[str, Spread]]:
    """Yield the figures of which a verdict has only the median. With one request, the median is also the mean."""
    for name, key in (("e2e_s", "e2e_s"), ("tpot_s", "tpot_s"), ("output_tokens", "completion_tokens")):
        if key in measured:
            value = measured[key]
            yield name, Spread.of([value]) if alone else Spread(percentiles={50: value})
