"""Figures of a results file: cold TTFT over length, the fitted law, and every measured value of every case."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, NamedTuple

from pytest_longctx.findings.ttft_law import Law, fit
from pytest_longctx.findings.verdicts import COLD_SHARE, JUDGED
from pytest_longctx.reports.results import Results

LAW = "law"
"""Used in place of a finding id if the figures are the coefficients of a deployment's law."""


class CaseKey(NamedTuple):
    """Key that identifies the same case in two runs: a finding on a deployment."""

    finding: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Samples:
    """Values that one run measured for a case. A repeated test gives several values."""

    words: list[str] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    bounds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    """Known relative scatter by figure. For coefficients, the repeats are the lengths."""


@dataclass(frozen=True, slots=True)
class LengthPoint:
    """Medians of the cold requests of one length on one deployment; ``None`` if not observed."""

    tokens: int
    runs: int
    ttft_s: float
    prefill_tokens_per_s: float | None = None
    decode_tokens_per_s: float | None = None
    least_s: float = 0.0
    most_s: float = 0.0
    """Least and most TTFT of the requests."""
    floor_s: float | None = None
    """Lower bound of the TTFT at the peak performance of the hardware."""
    documented_s: float | None = None


def cold(results: Results) -> dict[str, list[LengthPoint]]:
    """Return a run's cold measurements for each deployment, sorted by length."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for row in results.verdicts:
        seen = row["measured"]
        warm = seen.get("cached_share", 0.0) > COLD_SHARE or "warm_speedup" in seen
        # A time or a length of zero, which no server has, would have no logarithm.
        if seen.get("ttft_s", 0.0) > 0 and seen.get("prompt_tokens", 0.0) >= 1 and not warm:
            lengths = found.setdefault(row["server"].get("deployment", ""), {})
            lengths.setdefault(int(seen["prompt_tokens"]), []).append(row)
    return {name: [_reading(*pair) for pair in sorted(lengths.items())] for name, lengths in sorted(found.items())}


def _reading(tokens: int, rows: list[dict[str, Any]]) -> LengthPoint:
    def middle(name: str) -> float | None:
        return _median(row["measured"].get(name) for row in rows)

    times_s = [row["measured"]["ttft_s"] for row in rows]
    ttft_s = median(times_s)
    peak_share = middle("peak_share")
    return LengthPoint(
        tokens,
        len(rows),
        ttft_s,
        middle("prefill_tokens_per_s"),
        middle("decode_tokens_per_s"),
        min(times_s),
        max(times_s),
        None if peak_share is None else peak_share * ttft_s,
        _median(row.get("bounds", {}).get("ttft_s", {}).get("reference") for row in rows),
    )


def _median(values: Iterable[float | None]) -> float | None:
    seen = [value for value in values if value is not None]
    return median(seen) if seen else None


def law(readings: Iterable[LengthPoint]) -> Law | None:
    """Return the law of TTFT over prompt length fitted to *readings*; ``None`` for fewer than two lengths."""
    points = [(each.tokens, each.ttft_s) for each in readings]
    return fit(points) if len({tokens for tokens, _ in points}) > 1 else None


_LEFT_OUT: Final = 100
"""Lengths that are left out at most, one at a time."""


def _jackknife(readings: list[LengthPoint], whole: Law) -> dict[str, float]:
    """Return the largest relative change of each coefficient if one length is omitted; empty for fewer than four lengths."""
    if len(readings) < 4:
        return {}
    step = -(-len(readings) // _LEFT_OUT)  # each fit reads all lengths
    parts = [law(readings[:i] + readings[i + 1 :]) or whole for i in range(0, len(readings), step)]
    return {
        f"law_{name}": max(abs(getattr(part, name) / value - 1) for part in parts)
        for name, value in whole._asdict().items()
        if value
    }


def spent_s(results: Results) -> dict[str, float]:
    """Return the seconds that each deployment spent on boots and tests."""
    found: dict[str, float] = {}
    spans = [(boot.get("deployment"), boot.get("seconds") or 0.0) for boot in results.boots]
    spans += [(row["server"].get("deployment"), row.get("duration_s", 0.0)) for row in results.verdicts]
    for name, seconds in spans:
        if name:
            found[name] = found.get(name, 0.0) + seconds
    return found


def gather(results: Results) -> dict[CaseKey, Samples]:
    """
    Return the samples of every judged case, and the law of every deployment that was measured at two lengths or more,
    for comparison.
    """
    found: dict[CaseKey, Samples] = {}
    for row in results.verdicts:
        if row["verdict"] not in JUDGED:
            continue
        case = CaseKey(row["finding"], row["server"].get("deployment", ""))
        its = found.setdefault(case, Samples(bounds=row.get("bounds", {}), server=row["server"]))
        its.words.append(row["verdict"])
        for name, value in row["measured"].items():
            its.values.setdefault(name, []).append(value)
    for name, readings in cold(results).items():
        if whole := law(readings):
            values = {f"law_{part}": [value] for part, value in whole._asdict().items()}
            server = next((its.server for case, its in found.items() if case.deployment == name), {})
            found[CaseKey(LAW, name)] = Samples(values=values, server=server, noise=_jackknife(readings, whole))
    return found
