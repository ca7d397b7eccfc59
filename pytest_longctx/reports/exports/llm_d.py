"""
Benchmark reports in llm-d's format, version 0.2.1, one report for each workload.

Source: the models of the package ``llmd-benchmark-report`` 0.2.1, which a test validates these reports with.
"""

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any, Final

from pytest_longctx.reports.exports.workloads import Spread, Workload
from pytest_longctx.reports.results import Results

VERSION: Final = "0.2.1"
_TOOL: Final = "pytest-longctx"
_LATENCIES: Final = (
    ("ttft_s", "time_to_first_token", "s"),
    ("tpot_s", "time_per_output_token", "s/token"),
    ("e2e_s", "request_latency", "s"),
)
_RATES: Final = (
    ("output_tokens_per_s", "output_token_rate", "tokens/s"),
    ("total_tokens_per_s", "total_token_rate", "tokens/s"),
    ("requests_per_s", "request_rate", "queries/s"),
)


def report(results: Results, workload: Workload) -> dict[str, Any]:
    """Return the llm-d report of one *workload* of *results*."""
    latency = {theirs: made for ours, theirs, unit in _LATENCIES if (made := _spread(workload.figures.get(ours), unit))}
    throughput = {
        theirs: {"units": unit, "mean": workload.rates[ours]} for ours, theirs, unit in _RATES if ours in workload.rates
    }
    requests: dict[str, Any] = {"total": workload.requests, "failures": 0, "incomplete": 0}
    for theirs, spread in (
        ("input_length", workload.input_tokens),
        ("output_length", workload.figures.get("output_tokens")),
    ):
        requests |= {theirs: made} if (made := _spread(spread, "count")) else {}
    aggregate = {"requests": requests, "latency": latency, "throughput": throughput}
    return {
        "version": VERSION,
        "run": _run(results, workload),
        "scenario": {"stack": [_engine(workload)], "load": _load(results, workload)},
        "results": {"request_performance": {"aggregate": {name: each for name, each in aggregate.items() if each}}},
    }


def _spread(spread: Spread | None, unit: str) -> dict[str, Any] | None:
    """Return the statistics of one figure; None without a mean, which the format requires."""
    if spread is None or spread.mean is None:
        return None
    known = {"min": spread.least, "max": spread.most, **{f"p{at}": value for at, value in spread.percentiles.items()}}
    return {"units": unit, "mean": spread.mean, **{name: value for name, value in known.items() if value is not None}}


def _run(results: Results, workload: Workload) -> dict[str, Any]:
    """Return the description of the run. Its identifiers are equal whenever the same results file is exported."""
    whole = f"{_TOOL} {results.header['started']} {results.header.get('seed')} {results.header.get('shard', '')}"
    verdict, (started_s, ended_s) = workload.verdict, workload.lasted_s
    return {
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{whole} {verdict['test']}")),
        "eid": str(uuid.uuid5(uuid.NAMESPACE_URL, whole)),
        "time": {
            "start": _time(started_s),
            "end": _time(ended_s),
            "duration": f"PT{ended_s - started_s:.3f}S",
        },
        "description": f"{verdict['finding']} {verdict['verdict']}: {verdict['title']}",
    }


def _time(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).isoformat()


def _engine(workload: Workload) -> dict[str, Any]:
    """
    Return the engine as a generic component, because an ``inference_engine`` must state its parallelism, which results
    lack.
    """
    server: Mapping[str, str] = workload.verdict["server"]
    tool, _, version = server.get("engine", "").partition(" ")
    kept = {name: server[name] for name in ("model", "hardware", "launcher", "deployment") if server.get(name)}
    return {
        "metadata": {"label": server.get("deployment") or "server", "cfg_id": server.get("configuration", "")},
        "standardized": {"kind": "generic", "tool": tool or "unknown", "tool_version": version or "unknown", **kept},
        "native": {},
    }


def _load(results: Results, workload: Workload) -> dict[str, Any]:
    server = workload.verdict["server"]
    length = workload.input_tokens
    standardized = {
        "tool": workload.verdict.get("measured_by") or _TOOL,
        "tool_version": "unknown" if workload.verdict.get("measured_by") else results.header.get("longctx", "unknown"),
        "source": "unknown",  # random ids for most questions, text for others; the results do not say which
        "input_seq_len": {
            "distribution": "other" if length.least is None else "fixed",
            "value": length.mean,
        },
        **({} if workload.load else {"concurrency": 1}),
    }
    kept = {name: server[name] for name in ("ordinary_ids", "decoding", "seed") if server.get(name)}
    native = {"config": {"finding": workload.verdict["finding"], "test": workload.verdict["test"], **kept}}
    return {"metadata": {}, "standardized": standardized, "native": native}
