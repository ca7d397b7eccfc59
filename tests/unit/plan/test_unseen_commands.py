"""Commands of public repositories and threads, read as the engine reads them; what they expect was written before they were asked."""

import json
import shlex
from pathlib import Path

import pytest

from pytest_longctx import cli
from pytest_longctx.backends import versions
from pytest_longctx.deployments import command, script
from pytest_longctx.plan.uncounted import memory_variables
from tests.unit.factories import LLAMA_8B

DATA = Path(__file__).parent.parent.parent / "data"
CASES = [
    case
    for file in ("unseen_commands.json", "unseen_commands_third.json", "unseen_commands_fourth.json")
    for case in json.loads((DATA / file).read_text(encoding="utf-8"))
]
CONFIGS = {
    "LLAMA_8B": LLAMA_8B,
    **{
        name: model["config"]
        for file in ("models.json", "unseen.json")
        for name, model in json.loads((DATA / "shapes" / file).read_text(encoding="utf-8")).items()
    },
}


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """What ``longctx plan --json`` answers, and everything that it prints."""

    def answer(what, model, hardware, files=None):
        monkeypatch.chdir(tmp_path)
        Path("config.json").write_text(json.dumps(CONFIGS[model]), encoding="utf-8")
        for name, text in (files or {}).items():
            Path(name).write_text(text, encoding="utf-8")
        place = ["--hardware", hardware] if hardware else []
        words = ["--", what] if what else [next(iter(files))]
        status = cli.main(["plan", "--json", "--model", "config.json", *place, *words])
        said = capsys.readouterr()
        return (json.loads(said.out)[0] if status == 0 else None), said.out + said.err

    return answer


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_an_unusual_command_is_read_as_the_engine_reads_it(case, ask):
    answer, printed = ask(case["command"], case["model"], case["hardware"], case.get("files"))
    expected, refused = case["expected"], answer is None or answer["headline"].startswith(("refuses", "not planned"))
    if expected.get("outcome") == "refused" or (refused and expected.get("may_refuse")):
        assert refused
        assert printed.strip()
    else:
        assert answer is not None
        assert answer["devices"] == expected.get("devices", answer["devices"])
        assert {name: answer["flags"].get(name) for name in expected.get("flags", {})} == expected.get("flags", {})
    if expected.get("outcome") == "planned" and not (refused and expected.get("may_refuse")):
        assert not answer["headline"].startswith(("refuses", "not planned"))
    for name in expected.get("names", ()):
        assert name in (printed if answer is None else json.dumps([answer["headline"], answer["unmodelled"]]))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_variables_on_which_memory_depends_are_variables_of_some_version(engine):
    known = {name for each in versions.recorded(engine) for name in each.content["environment"]}
    assert set(memory_variables(engine)) <= known


def test_a_variable_at_its_default_is_not_named(ask):
    answer, _ = ask("VLLM_MLA_DISABLE=0 vllm serve M -tp 8", "DeepSeek-V3", "8xB200")
    assert answer["unmodelled"] == []


def test_latents_that_are_switched_off_are_named(ask):
    answer, _ = ask("VLLM_MLA_DISABLE=1 vllm serve M -tp 8", "DeepSeek-V3", "8xB200")
    assert answer["unmodelled"] == ["VLLM_MLA_DISABLE=1: models with latents keep whole keys and values"]


@pytest.mark.parametrize("flag", ["--kt-num-gpu-experts 2", "--quantization modelopt_fp4"])
def test_what_takes_weights_off_the_devices_leaves_a_lack_of_memory_undecided(flag, ask):
    answer, _ = ask(f"python -m sglang.launch_server --model-path M {flag}", "qwen3-235b", "1xH100")
    assert answer["headline"].startswith("not decided, runs out of memory at a guess (partial")
    assert flag in answer["headline"]


def test_what_takes_none_off_leaves_it_decided(ask):
    answer, _ = ask("python -m sglang.launch_server --model-path M --enable-fp32-lm-head", "qwen3-235b", "1xH100")
    assert answer["headline"].startswith("runs out of memory, phase load (gpu-oom-weights) (partial")


@pytest.mark.parametrize(
    ("connector", "said"),
    [
        ("TPUConnector", "is not one of vLLM's own connectors"),
        ("LMCacheConnectorV1", "keeps KV cache in host memory"),
        ("OffloadingConnector", "keeps KV cache in host memory"),
    ],
)
def test_a_connector_whose_memory_is_not_counted_is_named(connector, said, ask):
    table = json.dumps({"kv_connector": connector, "kv_role": "kv_both"})
    answer, _ = ask(f"vllm serve M --kv-transfer-config {shlex.quote(table)}", "LLAMA_8B", "1xH100")
    (line,) = answer["unmodelled"]
    assert connector in line
    assert said in line


def test_a_connector_that_keeps_nothing_is_not_named(ask):
    table = json.dumps({"kv_connector": "NixlConnector", "kv_role": "kv_both"})
    answer, _ = ask(f"vllm serve M --kv-transfer-config {shlex.quote(table)}", "LLAMA_8B", "1xH100")
    assert answer["unmodelled"] == []


@pytest.mark.parametrize("model", ["Qwen3.5-27B", "DeepSeek-V3"])
def test_layers_of_multi_token_prediction_are_no_refusal(model, ask):
    answer, _ = ask(
        """vllm serve M -tp 8 --speculative-config '{"method":"mtp","num_speculative_tokens":1}'""", model, "8xB200"
    )
    assert answer["refusals"] == []


@pytest.mark.parametrize("model", ["qwen3-235b", "gpt-oss-120b"])
def test_an_eagle_head_of_a_mixture_is_not_taken_for_a_mixture(model, ask):
    line = (
        """vllm serve M -tp 8 --speculative-config '{"method":"eagle3","model":"a/draft","num_speculative_tokens":2}'"""
    )
    answer, _ = ask(line, model, "8xB200")
    assert any(each.startswith("--speculative-config") for each in answer["unmodelled"])


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.25.1", "0.25.1"),
        ("lmsysorg/sglang:v0.5.14-cu130", "0.5.14"),
        ("nvcr.io/nvidia/vllm:26.05.post1-py3", None),
        ("nvcr.io/nvidia/sglang:26.01-py3", None),
        ("lmcache/vllm-openai:v0.3.9", None),
        ("ghcr.io/llm-d/llm-d-cuda:v0.6.0", None),
        ("registry.redhat.io/rhaiis/vllm-cuda-rhel9:3.2.2", None),
    ],
)
def test_a_tag_is_a_version_only_where_it_counts_versions_of_the_engine(image, version):
    assert command.Start("vllm", (), image=image).version == version


@pytest.mark.parametrize(
    "words",
    [
        ["ssh", "gpu-1", "vllm serve M -tp 4"],
        ["tmux", "new-session", "-d", "-s", "a", "docker exec c vllm serve M -tp 4"],
        ["su", "-", "serving", "-c", "cd /srv && vllm serve M -tp 4"],
        ["screen", "-dmS", "a", "bash", "-c", "vllm serve M -tp 4"],
    ],
)
def test_a_command_in_one_word_is_read(words):
    found = command.find(words)
    assert found is not None
    assert found.words == ("M", "-tp", "4")


@pytest.mark.parametrize(
    "line",
    [
        'FLAGS="-tp 4 --max-model-len 8192"; vllm serve M $FLAGS',
        "export FLAGS='--tensor-parallel-size=4 --max-model-len 8192' && vllm serve M ${FLAGS}",
        "vllm serve M -tp ${TP:=4} --max-model-len ${LEN:-8192}",
    ],
)
def test_what_the_command_itself_says_is_read_as_a_shell_does(line, ask):
    answer, _ = ask(line, "LLAMA_8B", "8xH100")
    assert answer["flags"] == {"tensor-parallel-size": 4, "max-model-len": 8192}


@pytest.mark.parametrize(
    "flag", ["-O0", "-cc.cudagraph_mode=NONE", """--compilation-config '{"cudagraph_mode": "none"}'"""]
)
def test_no_graphs_are_counted_where_there_are_none(flag, ask):
    eager, _ = ask("vllm serve M --enforce-eager", "LLAMA_8B", "1xH100")
    plain, _ = ask("vllm serve M", "LLAMA_8B", "1xH100")
    answer, _ = ask(f"vllm serve M {flag}", "LLAMA_8B", "1xH100")
    assert answer["longest_tokens"] == eager["longest_tokens"] > plain["longest_tokens"]
    assert answer["unmodelled"] == []


def test_other_graphs_are_named(ask):
    answer, _ = ask(
        """vllm serve M --compilation-config '{"cudagraph_mode":"FULL_DECODE_ONLY"}'""", "LLAMA_8B", "1xH100"
    )
    assert answer["unmodelled"] == ["--compilation-config: graphs take more or less memory"]


def test_a_whole_command_may_end_like_a_file(ask):
    answer, _ = ask(
        "vllm serve --config serve.yaml", "LLAMA_8B", "8xH100", {"serve.yaml": "model: M\ntensor-parallel-size: 2\n"}
    )
    assert answer["flags"]["tensor-parallel-size"] == 2


@pytest.mark.parametrize("model", ["./m.Q4_K_M.gguf", "someone/Model-GGUF", "someone/Model-exl3"])
def test_a_file_of_narrow_weights_is_not_taken_for_16_bits_in_silence(model, ask):
    answer, _ = ask(f"vllm serve {model}", "LLAMA_8B", "1xH100")
    assert any(each.startswith("weights in ") for each in answer["unmodelled"])


def test_another_device_is_named(ask):
    answer, _ = ask("python -m sglang.launch_server --model-path M --device cpu", "LLAMA_8B", "1xH100")
    assert answer["unmodelled"] == ["--device cpu: another device is used than the one that is planned"]


def test_every_server_of_a_script_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    script = (
        "CUDA_VISIBLE_DEVICES=0 vllm serve M --port 1 --gpu-memory-utilization 0.5 &\n"
        "vllm serve M --port 2 -tp 2 &\nvllm bench serve --port 2\nwait"
    )
    assert cli.main(["plan", "--json", "--model", "config.json", "--hardware", "8xH100", "--", script]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["where"], second["where"]) == ("the command, server 1", "the command, server 2")
    assert (first["devices"], second["devices"]) == (1, 2)
    assert first["flags"]["gpu-memory-utilization"] == 0.5
    assert second["hardware"] == "8xH100"  # the variable before the first is for the first alone


def test_a_variable_that_is_exported_is_for_all(tmp_path):
    one, two = command.find_all(script.split("export A=1; B=2 vllm serve M; vllm serve N"))
    assert (dict(one.env), dict(two.env)) == ({"A": "1", "B": "2"}, {"A": "1"})
