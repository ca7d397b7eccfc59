"""
Results in the form of GuideLLM's ``benchmarks.json``, report version 2, one file for each workload of single requests.

Source: ``GenerativeBenchmarksReport`` and its statistics in the package ``guidellm`` 0.8.1, with which a test reads them.
Each of its distributions states eleven percentiles of its requests, so a load, of which results keep three, is left out. A
distribution of no values has count 0 and zeros there, and an unknown mean time is -1: so is written what was not observed.
"""

import itertools
import math
import statistics
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pytest_longctx.reports.exports.workloads import Workload
from pytest_longctx.reports.results import Results

VERSION: Final = 2
GUIDELLM: Final = "0.8.1"
_UNKNOWN: Final = -1.0
_MS_PER_S: Final = 1000.0
_PERCENTILES: Final = {
    "p001": 0.001,
    "p01": 0.01,
    "p05": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
_NOT_OBSERVED: Final = (
    *("requests_per_second", "request_concurrency", "request_streaming_iterations_count"),
    *("time_to_last_round_trip_ms", "avg_round_trip_time_ms", "prompt_tokens_per_second", "output_tokens_per_second"),
    *("tokens_per_second", "output_tokens_per_iteration", "iter_tokens_per_iteration", "time_to_first_output_token_ms"),
)
_UNMEASURED_TIMES: Final = (
    *("queued_time_avg", "resolve_start_delay_avg", "resolve_targeted_start_delay_avg", "request_start_delay_avg"),
    *("request_targeted_start_delay_avg", "request_time_avg", "resolve_end_delay_avg", "resolve_time_avg"),
    *("finalized_delay_avg", "processed_delay_avg"),
)
_OTHER_MEDIA: Final = {
    "text": ("tokens", "words", "characters"),
    "image": ("tokens", "images", "pixels", "bytes"),
    "video": ("tokens", "frames", "seconds", "bytes"),
    "audio": ("tokens", "samples", "seconds", "bytes"),
    "tool_call": ("tokens", "mixed_tokens", "count"),
}


def unfit(workload: Workload) -> str:
    """Return why a *workload* cannot have a GuideLLM report; empty if it can."""
    return (
        "the format of GuideLLM needs every request of a load, but the results contain only percentiles"
        if workload.load
        else ""
    )


def report(results: Results, workload: Workload) -> dict[str, Any]:
    """Return the GuideLLM report of one *workload* of *results*."""
    whole = f"pytest-longctx {results.header['started']} {results.header.get('seed')} {results.header.get('shard', '')}"
    run, own = (str(uuid.uuid5(uuid.NAMESPACE_URL, f"{whole} {of}".strip())) for of in ("", workload.verdict["test"]))
    return {
        "metadata": {
            "version": VERSION,
            "guidellm_version": GUIDELLM,
            "python_version": "unknown",
            "platform": f"pytest-longctx {results.header.get('longctx', '')}".strip(),
        },
        "config": _scenario(workload),
        "benchmarks": [
            {
                "type_": "generative_benchmark",
                "config": _config(workload, run, own),
                "scheduler_state": _state(workload),
                "scheduler_metrics": _scheduler(workload),
                "metrics": _metrics(workload),
                "requests": {"successful": list(_requests(workload, own)), "incomplete": [], "errored": []},
                "warnings": [],
            }
        ],
    }


def _scenario(workload: Workload) -> dict[str, Any]:
    """Return the settings of an equal run of GuideLLM: the lengths, and one request after the other."""
    verdict, length = workload.verdict, _length(workload)
    labels = {name: verdict[name] for name in ("finding", "verdict", "title", "test")}
    labels |= {name: str(value) for name, value in verdict["server"].items()}
    data: dict[str, Any] = {"kind": "synthetic_text", "prompt_tokens": length}
    data["output_tokens"] = max(1, int(verdict["measured"].get("completion_tokens", 1)))
    return {
        "metadata": {"labels": labels},
        "spec": {
            "profile": {"kind": "synchronous"},
            "backend": _backend(workload),
            "constraints": [{"kind": "max_requests", "count": workload.requests}],
            "data": [data],
        },
    }


def _backend(workload: Workload) -> dict[str, Any]:
    """Return the description of the server, without its address, which results do not contain."""
    return {
        "kind": "openai_http",
        "target": "http://127.0.0.1",
        "model": workload.verdict["server"].get("model") or None,
    }


def _config(workload: Workload, run: str, own: str) -> dict[str, Any]:
    server: Mapping[str, str] = workload.verdict["server"]
    return {
        "id_": own,
        "run_id": run,
        "run_index": 0,
        "strategy": {"type_": "synchronous"},
        "constraints": {"max_requests": {"count": workload.requests}},
        "confidence": None,
        "profile": {"kind": "synchronous"},
        "requests": {"prompt_tokens": _length(workload)},
        "backend": _backend(workload),
        "environment": dict(server),
    }


def _state(workload: Workload) -> dict[str, Any]:
    started_s, ended_s = workload.lasted_s
    counts = dict.fromkeys(("created_requests", "processed_requests", "successful_requests"), workload.requests)
    return {"start_time": started_s, "end_time": ended_s, **counts}


def _scheduler(workload: Workload) -> dict[str, Any]:
    started_s, ended_s = workload.lasted_s
    starts = dict.fromkeys(("start_time", "request_start_time", "measure_start_time"), started_s)
    ends = dict.fromkeys(("measure_end_time", "request_end_time", "end_time"), ended_s)
    return {
        **starts,
        **ends,
        "requests_made": _counts(workload.requests),
        "generation_delay": _distribution(()),
        **dict.fromkeys(_UNMEASURED_TIMES, _UNKNOWN),
        "strategy_type": "synchronous",
    }


def _metrics(workload: Workload) -> dict[str, Any]:
    times_ms = [_MS_PER_S * row["ttft_s"] for row in workload.judged]
    length, answer = _length(workload), _alone(workload, "completion_tokens")
    latency_s, tpot_s = _alone(workload, "e2e_s"), _alone(workload, "tpot_s")
    known: dict[str, Iterable[float]] = {
        "request_latency": () if latency_s is None else [latency_s],
        "prompt_token_count": [length] * workload.requests,
        "output_token_count": () if answer is None else [answer],
        "total_token_count": () if answer is None else [length + answer],
        "time_to_first_token_ms": times_ms,
    }
    between, of_all, tokens = [], [], 1
    if tpot_s is not None and answer is not None and answer > 1:
        tokens = int(answer)
        between = [tpot_s * _MS_PER_S]
        of_all = [(times_ms[0] + between[0] * (tokens - 1)) / tokens]  # as there: with the time to the first token
    return {
        "request_totals": _counts(workload.requests),
        **{name: _by_status(list(values)) for name, values in known.items()},
        "inter_token_latency_ms": _by_status(between, tokens - 1),  # as there: an answer counts by its tokens
        "time_per_output_token_ms": _by_status(of_all, tokens),
        **{name: _by_status(()) for name in _NOT_OBSERVED},
        **{medium: dict.fromkeys(members) for medium, members in _OTHER_MEDIA.items()},
    }


def _requests(workload: Workload, own: str) -> Iterable[dict[str, Any]]:
    latency_s, answer, tpot_s = (_alone(workload, name) for name in ("e2e_s", "completion_tokens", "tpot_s"))
    for number, row in enumerate(workload.judged):
        first_s = row["started_s"] + row["ttft_s"]
        timings = {
            "resolve_start": row["started_s"],
            "request_start": row["started_s"],
            "first_token_iteration": first_s,
            "last_token_iteration": None if tpot_s is None or answer is None else first_s + tpot_s * (answer - 1),
            "request_end": None if latency_s is None else row["started_s"] + latency_s,
            "resolve_end": row["ended_s"],
        }
        name = f"{own}-{number}"
        yield {
            "type_": "generative_request_stats",
            "request_id": name,
            "info": {"request_id": name, "status": "completed", "timings": timings},
            "input_metrics": {"text_tokens": int(row["sent_tokens"])},
            "output_metrics": {"text_tokens": None if answer is None else int(answer)},
        }


def _length(workload: Workload) -> int:
    return int(workload.judged[0]["sent_tokens"])


def _alone(workload: Workload, figure: str) -> float | None:
    """
    Return a *figure* of the only request of a workload; None for several requests, of which only the median or the
    worst value is known.
    """
    value: float | None = workload.verdict["measured"].get(figure) if workload.requests == 1 else None
    return value


def _counts(requests: int) -> dict[str, int]:
    return {"successful": requests, "errored": 0, "incomplete": 0, "total": requests}


def _by_status(values: Sequence[float], weight: int = 1) -> dict[str, Any]:
    made = _distribution(values, weight)
    return {"successful": made, "errored": _distribution(()), "incomplete": _distribution(()), "total": made}


def _distribution(values: Sequence[float], weight: int = 1) -> dict[str, Any]:
    """Return the distribution of *values*, each counted *weight* times, by the definitions of ``DistributionSummary``."""
    if not values:
        stated = ("mean", "median", "mode", "variance", "std_dev", "min", "max", "total_sum")
        return {**dict.fromkeys(stated, 0.0), "count": 0, "percentiles": dict.fromkeys(_PERCENTILES, 0.0)}
    ordered = sorted(values)
    mean, count = statistics.fmean(ordered), len(ordered) * weight
    often = Counter(ordered)
    reached = list(zip(often, itertools.accumulate(each / len(ordered) for each in often.values()), strict=True))
    percentiles = {
        name: next((value for value, share in reached if share >= at), ordered[-1]) for name, at in _PERCENTILES.items()
    }
    variance = statistics.pvariance(ordered, mean)
    return {
        "mean": mean,
        "median": percentiles["p50"],
        "mode": statistics.multimode(ordered)[0],
        "variance": variance,
        "std_dev": math.sqrt(variance),
        "min": ordered[0],
        "max": ordered[-1],
        "count": count,
        "total_sum": mean * count,
        "percentiles": percentiles,
    }
