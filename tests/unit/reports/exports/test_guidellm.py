"""Exports in GuideLLM's form: read by GuideLLM where it is installed, and by this package's own reader of its reports everywhere."""

import json
import statistics
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_longctx import registry
from pytest_longctx.backends import environments
from pytest_longctx.client.adapters.guidellm import GuideLLM
from pytest_longctx.errors import LaunchError
from pytest_longctx.reports.exports import guidellm
from pytest_longctx.reports.exports.workloads import workloads
from pytest_longctx.reports.results import read
from tests.unit.reports.exports.test_exports import RUNS, one

ALONE = {"ttft_s": 1.0, "e2e_s": 2.0, "tpot_s": 0.1, "completion_tokens": 11.0}
DEFINED = {
    "p001": 1.0,
    "p01": 1.0,
    "p05": 1.0,
    "p10": 1.0,
    "p25": 2.0,
    "p50": 2.0,
    "p75": 4.0,
    "p90": 8.0,
    "p95": 8.0,
    "p99": 8.0,
    "p999": 8.0,
}
"""What ``DistributionSummary.from_values([1.0, 2.0, 2.0, 4.0, 8.0])`` of GuideLLM 0.8.1 has."""


def only(run):
    """The report of the only workload of *run*, its benchmark, and that one's metrics."""
    (found,) = workloads(run).found
    made = json.loads(json.dumps(guidellm.report(run, found), allow_nan=False))
    (benchmark,) = made["benchmarks"]
    return made, benchmark, benchmark["metrics"]


def test_repeated_requests_have_guidellms_statistics_of_their_ttft():
    times_s = [0.002, 0.001, 0.008, 0.002, 0.004]
    _, benchmark, metrics = only(one([9.0, *times_s], runs=5, ttft_s=0.002, e2e_s=2.0, completion_tokens=11.0))
    ttft = metrics["time_to_first_token_ms"]["successful"]
    assert ttft == metrics["time_to_first_token_ms"]["total"]
    assert ttft["percentiles"] == pytest.approx(DEFINED)
    values = [1000 * time_s for time_s in times_s]
    assert (ttft["mean"], ttft["total_sum"]) == pytest.approx((statistics.fmean(values), sum(values)))
    assert ttft["variance"] == pytest.approx(statistics.pvariance(values))
    assert ttft["std_dev"] == pytest.approx(statistics.pstdev(values))
    assert (ttft["median"], ttft["mode"], ttft["min"], ttft["max"]) == pytest.approx((2.0, 2.0, 1.0, 8.0))
    assert ttft["count"] == 5
    assert metrics["prompt_token_count"]["successful"]["mean"] == 1000
    assert [each["info"]["timings"]["first_token_iteration"] for each in benchmark["requests"]["successful"]] == [
        pytest.approx(100.0 + at + time_s) for at, time_s in enumerate(times_s, 1)
    ]


def test_figures_of_which_only_the_median_is_known_are_not_stated():
    """A verdict's time of an answer is the median of several, and its count of tokens the worst: no request had both."""
    run = one([1.0, 1.0, 1.0], runs=3, **ALONE)
    _, benchmark, metrics = only(run)
    for name in ("request_latency", "output_token_count", "inter_token_latency_ms", "time_per_output_token_ms"):
        assert metrics[name]["successful"]["count"] == 0
    for each in benchmark["requests"]["successful"]:
        assert each["output_metrics"]["text_tokens"] is None
        assert each["info"]["timings"]["request_end"] is None


def test_a_request_alone_has_all_its_figures():
    made, benchmark, metrics = only(one([1.0], runs=1, **ALONE))
    assert metrics["request_latency"]["successful"]["mean"] == 2.0
    assert metrics["output_token_count"]["successful"]["mean"] == 11
    assert metrics["total_token_count"]["successful"]["mean"] == 1011
    between, every = metrics["inter_token_latency_ms"]["successful"], metrics["time_per_output_token_ms"]["successful"]
    assert (between["mean"], between["count"]) == (100.0, 10)
    assert (every["mean"], every["count"]) == (pytest.approx((1000 + 10 * 100) / 11), 11)
    assert benchmark["scheduler_metrics"]["requests_made"]["total"] == 1
    assert made["config"]["metadata"]["labels"]["finding"] == "TT-0001"


def test_a_load_is_left_out_and_says_why():
    run = read(RUNS[0] / "results.jsonl")
    (load,) = (each for each in workloads(run).found if each.verdict["finding"] == "LC-0050")
    assert "results contain only percentiles" in guidellm.unfit(load)
    fit = [each for each in workloads(run).found if not guidellm.unfit(each)]
    assert fit
    assert all(each.judged and not each.load for each in fit)


def test_the_reader_of_guidellms_reports_finds_the_same_requests(tmp_path):
    """The adapter reads what GuideLLM wrote; a wrong name or unit of this export would show."""
    made, _, _ = only(one([1.5], runs=1, **ALONE | {"ttft_s": 1.5}))
    (tmp_path / "report.json").write_text(json.dumps(made))
    trained = SimpleNamespace(deployment=SimpleNamespace(model=SimpleNamespace(weights="real")))
    errand = SimpleNamespace(ask=SimpleNamespace(output_tokens=11), folder=tmp_path, server=trained)
    (exchange,) = GuideLLM().read(cast(Any, errand)).exchanges
    assert exchange.arrivals_s[0] - exchange.started_s == pytest.approx(1.5)
    assert (exchange.usage.prompt_tokens, exchange.usage.completion_tokens) == (1000, 11)
    assert exchange.ended_s - exchange.started_s == pytest.approx(2.0)


CHECK = """
import json, sys
from guidellm.benchmark.schemas import GenerativeBenchmarksReport
from guidellm.schemas import DistributionSummary

for made in json.load(open(sys.argv[1])):
    path = sys.argv[1] + ".report.json"
    json.dump(made, open(path, "w"))
    report = GenerativeBenchmarksReport.load_file(path)
    report.save_file(path)  # computes what GuideLLM derives from each request
    again = json.load(open(path))
    (benchmark,), (written,) = report.benchmarks, made["benchmarks"]
    requests = benchmark.requests.successful
    own = DistributionSummary.from_values([1000 * each for each in made["ttft_s"]])
    ours = benchmark.metrics.time_to_first_token_ms.successful
    for name in ("mean", "median", "mode", "variance", "min", "max", "count", "total_sum"):
        left, right = getattr(own, name), getattr(ours, name)
        assert abs(left - right) <= 1e-6 * max(1, abs(left)), (name, left, right)
    for name, value in own.percentiles:
        assert abs(value - getattr(ours.percentiles, name)) <= 1e-6 * max(1, value), name
    for request, time_s in zip(requests, made["ttft_s"], strict=True):
        assert abs(request.time_to_first_token_ms - 1000 * time_s) < 1, request
    for name, stated in written["metrics"].items():
        assert name in type(benchmark.metrics).model_fields, name
    for medium in ("text", "image", "video", "audio", "tool_call"):
        assert set(written["metrics"][medium]) == set(type(getattr(benchmark.metrics, medium)).model_fields), medium
    assert again["benchmarks"][0]["requests"]["successful"][0]["time_to_first_token_ms"] is not None
print("read", len(json.load(open(sys.argv[1]))))
"""


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_guidellm_reads_every_report_and_finds_its_own_statistics(folder, tmp_path):
    """If GuideLLM is installed, as ``longctx engine guidellm`` does."""
    try:
        python = environments.interpreter(registry.load(registry.LOADS["guidellm"])())
    except LaunchError as problem:
        pytest.skip(str(problem))
    run = read(folder / "results.jsonl")
    fit = [each for each in workloads(run).found if not guidellm.unfit(each)]
    repeated = one([0.002, 0.001, 0.008, 0.002, 0.004], runs=5, ttft_s=0.002)
    made = [guidellm.report(run, each) | {"ttft_s": [row["ttft_s"] for row in each.judged]} for each in fit]
    made += [
        guidellm.report(repeated, each) | {"ttft_s": [row["ttft_s"] for row in each.judged]}
        for each in workloads(repeated).found
    ]
    path = Path(tmp_path / "made.json")
    path.write_text(json.dumps(made))
    done = subprocess.run(
        [str(python), "-c", CHECK, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["read", str(len(made))]
