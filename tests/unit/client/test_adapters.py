"""
Parsing of other tools' output: real reports of vLLM 0.32.0, GuideLLM 0.8.1, AIPerf 0.13.0 and lm-eval 0.4.13.

All except lm-eval's are from the CPU build of vLLM 0.32.0 with a tiny model of random weights, 8 requests of 256 + 16 tokens, 4
at a time. The refused requests named an unknown model. lm-eval used a server with one correct answer in the right format and two
in total.
"""

import json
import shutil
from pathlib import Path

import pytest

from pytest_longctx import registry
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm, VllmCpu
from pytest_longctx.client import adapters
from pytest_longctx.client.adapters import LoadTool, Tool, ToolRun, runner
from pytest_longctx.client.exchange import Exchange, Ledger, Usage
from pytest_longctx.client.load import Load, observe
from pytest_longctx.client.server import Server
from pytest_longctx.findings.ask import Ask
from pytest_longctx.registry import EVALUATIONS, LOADS, load
from tests.unit import factories

DATA = Path(__file__).parents[2] / "data" / "adapters"
ASK = Ask(prompt_tokens=256, output_tokens=16, requests=8, concurrency=4)
SUMS = Ask(task="sums", shots=2, concurrency=4)
REPORTS = {"vllm-bench": "vllm_bench.json", "guidellm": "guidellm.json", "aiperf": "aiperf.jsonl"}
NAMES = {"vllm-bench": "report.json", "guidellm": "report.json", "aiperf": "profile_export.jsonl"}

every_load = pytest.mark.parametrize("name", LOADS)
every_tool = pytest.mark.parametrize("name", [*LOADS, *EVALUATIONS])


def tool_called(name: str) -> Tool:
    made: Tool = registry.load({**LOADS, **EVALUATIONS}[name])()
    return made


def errand(folder: Path, ask: Ask = ASK, *, weights: str = "real", key: str = "") -> ToolRun:
    server = Server(
        "http://127.0.0.1:1",
        "llama",
        Vllm(),
        factories.deployment(model={"name": "llama", "id": "some/llama", "weights": weights}),
        "process",
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )
    return ToolRun(server, ask, 7, folder)


def read(name: str, folder: Path, report: str, weights: str = "real") -> Load:
    tool: LoadTool = load(LOADS[name])()
    shutil.copy(DATA / report, folder / NAMES[name])
    found = tool.read(errand(folder, weights=weights))
    return Load(found.exchanges, Ledger(cached_tokens=0), found.duration_s, found.left_out | tool.left_out)


@every_load
def test_every_request_of_a_report_is_read(name, tmp_path):
    found = observe(read(name, tmp_path, REPORTS[name]))
    assert found.outcome == "serves"
    assert (found.metrics["requests"], found.metrics["miscounted_answers"]) == (8, 0)
    assert found.metrics["total_tokens_per_s"] == pytest.approx(
        17 * (found.metrics["output_tokens_per_s"] or 0), rel=0.01
    )
    assert found.metrics["cached_share"] == 0


@every_load
def test_what_a_tool_cannot_know_is_not_observed(name, tmp_path):
    found = observe(read(name, tmp_path, REPORTS[name])).metrics
    assert "miscounted_prompts" not in found
    assert ("itl_mean_s" not in found) is (name == "guidellm")
    assert found["ttft_p99_s"] is not None


def test_figures_of_vllm_are_those_it_computed_itself(tmp_path):
    found = observe(read("vllm-bench", tmp_path, "vllm_bench.json")).metrics
    theirs = json.loads((DATA / "vllm_bench.json").read_text(encoding="utf-8"))
    for ours in ("ttft", "tpot", "itl"):
        for part, their_part in (("mean", "mean"), ("p50", "median"), ("p99", "p99")):
            assert found[f"{ours}_{part}_s"] == pytest.approx(theirs[f"{their_part}_{ours}_ms"] / 1000)
    assert found["output_tokens_per_s"] == pytest.approx(theirs["output_throughput"])
    assert found["load_s"] == theirs["duration"]


def test_figures_of_aiperf_are_those_it_computed_itself(tmp_path):
    found = observe(read("aiperf", tmp_path, "aiperf.jsonl")).metrics
    theirs = json.loads((DATA / "aiperf_summary.json").read_text(encoding="utf-8"))
    names = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "itl": "inter_chunk_latency"}
    for ours, their_name in names.items():
        for part, their_part in (("mean", "avg"), ("p50", "p50"), ("p99", "p99")):
            # Its stamps count from 1970, so a float resolves them to less than a microsecond.
            assert found[f"{ours}_{part}_s"] == pytest.approx(theirs[their_name][their_part] / 1000, abs=1e-6)
    # Its throughput differs because it divides by more than the duration of the load.
    assert found["load_s"] == pytest.approx(theirs["benchmark_duration"]["avg"])
    assert found["output_tokens_per_s"] == pytest.approx(8 * 16 / theirs["benchmark_duration"]["avg"])


def test_figures_of_guidellm_are_those_of_its_requests(tmp_path):
    found = observe(read("guidellm", tmp_path, "guidellm.json")).metrics
    (theirs,) = json.loads((DATA / "guidellm.json").read_text(encoding="utf-8"))["benchmarks"]
    rows = theirs["requests"]["successful"]
    assert found["ttft_mean_s"] == pytest.approx(sum(row["time_to_first_token_ms"] for row in rows) / 8000)
    assert found["tpot_mean_s"] == pytest.approx(sum(row["inter_token_latency_ms"] for row in rows) / 8000)
    assert found["load_s"] == pytest.approx(theirs["duration"], rel=0.02)  # its duration ends slightly earlier


@pytest.mark.parametrize("name", ["guidellm", "aiperf"])
def test_a_tool_blind_to_empty_tokens_times_nothing_of_random_weights(name, tmp_path):
    """Half the chunks of that model can have no text: AIPerf once reported 8 of 16, and a first token 15 tokens late."""
    found = observe(read(name, tmp_path, REPORTS[name], weights="random")).metrics
    assert not set(adapters.TIMES) & set(found)
    assert found["output_tokens_per_s"] is not None


@pytest.mark.parametrize(
    ("name", "report"),
    [
        ("vllm-bench", "vllm_bench_refused.json"),
        ("guidellm", "guidellm_refused.json"),
        ("aiperf", "aiperf_refused.jsonl"),
    ],
)
def test_a_refused_request_is_the_evidence(name, report, tmp_path):
    """If all requests failed, vllm bench writes 0.0 for every figure. None of these values is a measurement."""
    found = read(name, tmp_path, report)
    assert [each.ending for each in found.exchanges] == ["refused"] * 3
    assert found.exchanges[0].refusal
    assert found.exchanges[0].refusal.status == 404
    assert observe(found).outcome == "refuses"


def test_accuracies_come_with_their_standard_errors(tmp_path):
    tool = load(EVALUATIONS["lm-eval"])()
    shutil.copy(DATA / "lm_eval.json", tmp_path / "results_2026.json")
    found = tool.read(errand(tmp_path, SUMS))
    assert found.metrics == {
        "requests": 8,
        "accuracy_strict": 0.125,
        "accuracy_strict_stderr": 0.125,
        "accuracy_flexible": 0.25,
        "accuracy_flexible_stderr": pytest.approx(0.16366, abs=1e-5),
    }
    assert found.measured_by == "sums version 1.0, 2 shots"


@every_tool
def test_a_tool_gets_the_ask_and_never_a_shell(name, tmp_path):
    ask = SUMS if name in EVALUATIONS else ASK
    argv = tool_called(name).argv(errand(tmp_path, ask), "python")
    assert argv[0] == "python"
    assert all(isinstance(word, str) for word in argv)
    words = " ".join(argv)
    assert "http://127.0.0.1:1" in words
    assert "llama" in words
    assert "sums" in words if name in EVALUATIONS else "256" in words


@pytest.mark.parametrize("name", ["vllm-bench", "lm-eval"])
def test_a_key_travels_in_the_environment_where_the_tool_reads_it_there(name, tmp_path):
    sent = errand(tmp_path, SUMS, key="hunter2000")
    assert tool_called(name).env(sent)["OPENAI_API_KEY"] == "hunter2000"
    assert "hunter2000" not in " ".join(tool_called(name).argv(sent, "python"))


def test_vllm_bench_runs_where_the_engine_is_and_else_in_the_cpu_build():
    tool = tool_called("vllm-bench")
    backend = Vllm()
    assert tool.owner(backend) is backend
    assert isinstance(tool.owner(Sglang()), VllmCpu)


class Script(LoadTool):
    """A tool that consists of one line of Python."""

    name = "script"
    package = "pytest"

    def __init__(self, code: str, limit_s: float = 30.0, tokens: int = 256) -> None:
        self.code, self.limit_s, self.tokens = code, limit_s, tokens

    def argv(self, errand, python):
        return (python, "-c", self.code)

    def deadline_s(self, errand):
        return self.limit_s

    def read(self, errand):
        usage = Usage(self.tokens, 16, 0)
        return Load((Exchange(self.tokens, 16, 0.0, "complete", 1.0, arrivals_s=(0.5, 1.0), usage=usage),))


@pytest.fixture
def _answering(monkeypatch):
    monkeypatch.setattr(runner, "_answers", lambda _: True)


@pytest.mark.usefixtures("_answering")
@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (Script("raise ValueError('no such dataset')"), "script: ValueError: no such dataset; see "),
        (
            Script("import time; print('still here'); time.sleep(60)", limit_s=1.0),
            "script: not finished within 1 s; see ",
        ),
        (Script("", tokens=200), "script: the tool's prompts had 200.0 tokens on average, but 256 were requested"),
    ],
)
def test_a_tool_that_measures_nothing_says_why_and_is_no_evidence(tool, message, tmp_path):
    seen = observe(runner.run_load(tool, errand(tmp_path / "t")))
    assert (seen.outcome, seen.metrics) == (None, {})
    assert seen.said.startswith(message)


def test_a_server_that_is_gone_with_the_tool_is_evidence(tmp_path):
    """No server listens on port 1."""
    assert observe(runner.run_load(Script("raise OSError"), errand(tmp_path / "t"))).outcome == "disconnects"


@pytest.mark.usefixtures("_answering")
def test_a_tool_that_is_not_installed_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path / "kept"))
    seen = runner.score(load(EVALUATIONS["lm-eval"])(), errand(tmp_path, SUMS))
    assert seen.outcome is None
    assert seen.said == "lm-eval: the tool 'lm-eval' is not installed; try longctx engine lm-eval"


def test_no_secret_stays_in_what_a_tool_wrote(tmp_path):
    """A tool can print its command line, and a server the request it received."""
    code = f"import pathlib; pathlib.Path({str(tmp_path / 't' / 'report.json')!r}).write_text('key hunter2000'); print('hunter2000')"
    runner.run_load(Script(code), errand(tmp_path / "t", key="hunter2000"))
    written = [path.read_text(encoding="utf-8") for path in (tmp_path / "t").iterdir()]
    assert sorted(text.strip() for text in written) == ["***", "key ***"]


def test_a_load_by_a_tool_says_so(tmp_path):
    found = runner.run_load(Script(""), errand(tmp_path / "t"))
    assert observe(found).measured_by.startswith("script ")
