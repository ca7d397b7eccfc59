"""
Results in the form of AIPerf's ``profile_export_aiperf.json``, schema 1.4, one file for each workload.

Source: ``JsonExportData`` and ``JsonMetricResult`` of the package ``aiperf`` 0.13.0, and its definitions of the metrics. Its
inter-token latency is the time of an answer after its first token, divided by the other tokens: ``tpot_s`` here. Its time between
chunks is ``gap_s``.
"""

from typing import Any, Final

from pytest_longctx.reports.exports.workloads import Spread, Workload
from pytest_longctx.reports.results import Results

VERSION: Final = "1.4"
_MS_PER_S: Final = 1000.0
_TIMES: Final = (
    ("ttft_s", "time_to_first_token"),
    ("e2e_s", "request_latency"),
    ("tpot_s", "inter_token_latency"),
    ("gap_s", "inter_chunk_latency"),
)
_RATES: Final = (
    ("requests_per_s", "request_throughput", "requests/sec"),
    ("output_tokens_per_s", "output_token_throughput", "tokens/sec"),
    ("total_tokens_per_s", "total_token_throughput", "tokens/sec"),
)


def export(results: Results, workload: Workload) -> dict[str, Any]:
    """Return the export of one *workload* of *results*. The key ``pytest_longctx`` has all that AIPerf has no field for."""
    figures = workload.figures
    known: dict[str, Any] = {theirs: _metric(figures.get(ours), "ms", _MS_PER_S) for ours, theirs in _TIMES}
    known |= {
        "input_sequence_length": _metric(workload.input_tokens, "tokens"),
        "output_sequence_length": _metric(figures.get("output_tokens"), "tokens"),
    }
    for ours, theirs, unit in _RATES:
        known[theirs] = {"unit": unit, "avg": workload.rates[ours]} if ours in workload.rates else None
    verdict = workload.verdict
    return {
        "schema_version": VERSION,
        "request_count": {"unit": "requests", "avg": float(workload.requests)},
        **{name: metric for name, metric in known.items() if metric is not None},
        "pytest_longctx": {
            "version": results.header.get("longctx", ""),
            **{name: verdict[name] for name in ("finding", "verdict", "test", "server")},
        },
    }


def _metric(spread: Spread | None, unit: str, scale: float = 1.0) -> dict[str, Any] | None:
    if spread is None:
        return None
    values = {"avg": spread.mean, "min": spread.least, "max": spread.most}
    values |= {f"p{at}": value for at, value in spread.percentiles.items()}
    known = {name: value * scale for name, value in values.items() if value is not None}
    return {"unit": unit, **known} if known else None
