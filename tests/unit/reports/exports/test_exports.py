"""Exports for other tools, from recorded runs: valid by the tools' models, with the figures of the results and no others."""

import json
import math
import statistics
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import cli, registry
from pytest_longctx.backends import environments
from pytest_longctx.errors import LaunchError
from pytest_longctx.reports.exports import aiperf, llm_d
from pytest_longctx.reports.exports.workloads import names, workloads
from pytest_longctx.reports.results import read
from tests.unit import factories

RESULTS = Path(__file__).parents[4] / "docs" / "results"
RUNS = [RESULTS / "vllm-0.25.1-1xh200" / "scale", RESULTS / "vllm-0.32.0-cpu"]
SERVER = {"deployment": "tiny", "engine": "vllm 0.32.0", "configuration": "1234", "model": "m", "hardware": "8xH200"}


@pytest.fixture(params=RUNS, ids=lambda folder: folder.name)
def run(request):
    return read(request.param / "results.jsonl")


def one(times_s, *, lengths=None, endings=None, **measured):
    """A run of one test, whose requests had these times to the first token."""
    rows = [
        {
            "kind": "request",
            "test": "test_x",
            "deployment": "tiny",
            "started_s": 100.0 + at,
            "ended_s": 101.0 + at,
            "sent_tokens": lengths[at] if lengths else 1000,
            "ttft_s": time_s,
            "ending": endings[at] if endings else "complete",
        }
        for at, time_s in enumerate(times_s)
    ]
    verdict = factories.verdict(**measured) | {"test": "test_x", "server": SERVER}
    return factories.results(verdict, requests=rows)


def test_every_report_for_llm_d_is_valid_by_its_own_models(run):
    package = pytest.importorskip("llmd_benchmark_report")
    made = [llm_d.report(run, each) for each in workloads(run).found]
    read_back = [package.load_benchmark_report(json.loads(json.dumps(each))) for each in made]
    assert {each.version for each in read_back} == {llm_d.VERSION}
    assert len({each.run.uid for each in read_back}) == len(made)
    assert len({each.run.eid for each in read_back}) == 1
    plain = [each.model_dump(mode="json", exclude_unset=True, by_alias=True) for each in read_back]
    assert [each["results"] for each in plain] == [each["results"] for each in made]
    assert [each["scenario"] for each in plain] == [each["scenario"] for each in made]


def test_the_load_of_a_recorded_run_has_the_figures_of_its_verdict():
    run = read(RUNS[0] / "results.jsonl")
    (load,) = (each for each in workloads(run).found if each.verdict["finding"] == "LC-0050")
    made = llm_d.report(run, load)["results"]["request_performance"]["aggregate"]
    assert made["requests"]["total"] == 50
    assert made["requests"]["input_length"] == {"units": "count", "mean": 1000.0}
    assert math.isclose(made["requests"]["output_length"]["mean"], 16, rel_tol=1e-6)
    ttft = {"units": "s", "mean": 0.241877312, "p50": 0.140921726, "p90": 0.742609719, "p99": 0.742879622}
    assert made["latency"]["time_to_first_token"] == ttft
    assert made["throughput"]["output_token_rate"] == {"units": "tokens/s", "mean": 907.851323}
    assert "inter_token_latency" not in made["latency"]  # a chunk may have several tokens


def test_an_export_of_a_load_for_aiperf_is_read_by_llm_d_as_its_own_report_says(tmp_path):
    """Two exports by two ways into one format, so a wrong unit or name of either shows."""
    native = pytest.importorskip("llmd_benchmark_report.native_to_br0_2")
    run = read(RUNS[0] / "results.jsonl")
    (load,) = (each for each in workloads(run).found if each.verdict["finding"] == "LC-0050")
    needed = {"request_latency": {"unit": "ms", "avg": 1.0}}  # their reader wants a mean, which no load here has
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(needed | aiperf.export(run, load)))
    theirs = native.import_aiperf(str(tmp_path / "profile_export_aiperf.json")).dump()["results"]["request_performance"]
    ours = llm_d.report(run, load)["results"]["request_performance"]
    theirs, ours = theirs["aggregate"], ours["aggregate"]
    assert theirs["requests"]["total"] == ours["requests"]["total"]
    pairs = [
        (theirs["latency"]["time_to_first_token"], ours["latency"]["time_to_first_token"]),
        (theirs["latency"]["inter_token_latency"], ours["latency"]["time_per_output_token"]),
        *((theirs["throughput"][name], ours["throughput"][name]) for name in ours["throughput"]),
        (theirs["requests"]["input_length"], ours["requests"]["input_length"]),
        (theirs["requests"]["output_length"], ours["requests"]["output_length"]),
    ]
    for left, right in pairs:
        assert left.pop("units") == right.pop("units")
        assert left == pytest.approx(right)


def test_every_export_for_aiperf_is_valid_by_its_own_models(run, tmp_path):
    """If AIPerf is installed, as ``longctx engine aiperf`` does."""
    try:
        python = environments.interpreter(registry.load(registry.LOADS["aiperf"])())
    except LaunchError as problem:
        pytest.skip(str(problem))
    (tmp_path / "made.json").write_text(json.dumps([aiperf.export(run, each) for each in workloads(run).found]))
    check = (
        "import json, sys\n"
        "from aiperf.common.models.export_models import JsonExportData, JsonMetricResult\n"
        "for each in json.load(open(sys.argv[1])):\n"
        "    made = JsonExportData.model_validate(each)\n"
        "    assert made.schema_version == JsonExportData.SCHEMA_VERSION\n"
        "    assert {name for name in each if isinstance(each[name], dict) and 'unit' in each[name]} "
        "- {'total_token_throughput'} <= set(JsonExportData.model_fields)\n"
        "    JsonMetricResult.project_summary_dict(each)\n"
    )
    subprocess.run([str(python), "-c", check, str(tmp_path / "made.json")], check=True, timeout=300)


@given(times_s=st.lists(st.floats(0.001, 1000), min_size=1, max_size=20), warm_up=st.integers(0, 3))
def test_repeated_requests_have_the_spread_of_those_that_were_judged(times_s, warm_up):
    run = one([9999.0] * warm_up + times_s, runs=len(times_s), ttft_s=statistics.median(times_s), e2e_s=2.0)
    (found,) = workloads(run).found
    ttft = aiperf.export(run, found)["time_to_first_token"]
    assert ttft == pytest.approx(
        {
            "unit": "ms",
            "avg": statistics.fmean(times_s) * 1000,
            "min": min(times_s) * 1000,
            "max": max(times_s) * 1000,
            "p50": statistics.median(times_s) * 1000,
        }
    )
    latency = llm_d.report(run, found)["results"]["request_performance"]["aggregate"]["latency"]
    assert ("request_latency" in latency) == (len(times_s) == 1)  # the mean of several is not recorded
    assert aiperf.export(run, found)["request_latency"]["p50"] == 2000.0


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (one([1.0, 2.0], ttft_s=2.0), "several requests"),
        (one([1.0, 2.0], runs=2, ttft_s=1.0), "do not belong to the last requests"),
        (one([1.0, 1.0], runs=2, ttft_s=1.0, lengths=[10, 20]), "different lengths"),
        (one([1.0, 1.0], runs=2, ttft_s=1.0, endings=["complete", "refused"]), "not every request was answered"),
        (one([1.0], runs=1, ttft_s=1.0, endings=[None]), "do not record each request separately"),
        (one([1.0], runs=3, ttft_s=1.0), "do not record each request separately"),
        (one([], ttft_s=1.0), "do not record"),
    ],
)
def test_requests_that_are_not_surely_equal_are_left_out(run, why):
    made = workloads(run)
    assert made.found == ()
    assert why in made.left_out["test_x"]


def test_two_workloads_of_one_finding_have_two_names():
    run = one([1.0], runs=1, ttft_s=1.0)
    (found,) = workloads(run).found
    assert list(names([found, found, found])) == ["TT-0001-tiny", "TT-0001-tiny.2", "TT-0001-tiny.3"]


@pytest.mark.parametrize("form", ["llm-d", "aiperf"])
def test_the_command_writes_a_file_for_each_workload_and_names_the_rest(tmp_path, capsys, form):
    path = RUNS[0] / "results.jsonl"
    assert cli.main(["report", str(path), "--format", form, "-o", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted(map(Path, said["files"])) == sorted((tmp_path / "out").iterdir())
    assert len(said["files"]) + len(said["left_out"]) == len({row["test"] for row in read(path).verdicts})
    assert cli.main(["report", str(path), "--format", form, "-o", str(tmp_path / "out"), "--png"]) == 2
    assert "apply only to HTML" in capsys.readouterr().err


def test_a_run_without_a_workload_is_no_success(tmp_path, capsys):
    path = RESULTS / "vllm-0.25.1-1xh200" / "results.jsonl"
    assert cli.main(["report", str(path), "--format", "llm-d", "-o", str(tmp_path / "out")]) == 1
    assert "left out: " in capsys.readouterr().err
