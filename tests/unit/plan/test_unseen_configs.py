"""Configs that the reader reads and that an engine refuses, and the cache that a quantised file asks for."""

import json
from pathlib import Path

import pytest

from pytest_longctx import cli

CASES = json.loads((Path(__file__).parent.parent.parent / "data/shapes/unseen_fourth.json").read_text(encoding="utf-8"))
STARTS = {"vllm": "vllm serve M", "sglang": "python -m sglang.launch_server --model-path M"}


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """What ``longctx plan --json`` answers for a config and an engine on one device that holds anything."""

    def answer(config, engine="vllm", *more):
        monkeypatch.chdir(tmp_path)
        Path("config.json").write_text(json.dumps(config), encoding="utf-8")
        words = [*STARTS[engine].split(), *more]
        assert cli.main(["plan", "--json", "--model", "config.json", "--hardware", "1x4000GiB", "--", *words]) == 0
        return json.loads(capsys.readouterr().out)[0]

    return answer


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("name", ["DeepSeek-V4-Flash-FP8", "rwkv-7b-pile"])
def test_what_an_engine_keeps_no_cache_for_is_not_planned(name, engine, ask):
    assert ask(CASES[name]["config"], engine)["headline"].startswith("not planned")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_class_that_no_engine_has_is_named(engine, ask):
    said = ask(CASES["Step-3.7-Flash-FP8"]["config"], engine)
    assert any("no class for Step3p7FlashForCausalLM" in each for each in said["unmodelled"])


def test_vllm_refuses_windows_of_some_layers_of_a_qwen(ask):
    config = CASES["qwen3-4b-pruned-layer-types"]["config"]
    said = ask(config)
    assert said["headline"].startswith("refuses, phase load")
    assert "max_window_layers is 36" in said["headline"]
    assert not ask(config, "sglang")["headline"].startswith("refuses")


@pytest.mark.parametrize(
    "change",
    [{"layer_types": ["full_attention"] * 36}, {"layer_types": ["sliding_attention"] * 36}],
)
def test_windows_of_all_layers_or_of_none_are_no_refusal(change, ask):
    assert not ask({**CASES["qwen3-4b-pruned-layer-types"]["config"], **change})["headline"].startswith("refuses")


def test_windows_that_vllm_does_not_keep_to_are_not_planned(ask):
    # the class registers whole caches for all 36 layers
    said = ask({**CASES["qwen3-4b-pruned-layer-types"]["config"], "max_window_layers": 36})
    assert said["headline"].startswith("not planned")
    assert "windows of some layers of qwen3" in said["headline"]


MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes/models.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen3-30b-a3b", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 24}),
        ("qwen3-30b-a3b", {"sliding_window": 4096, "layer_types": ["full_attention", "sliding_attention"] * 24}),
        ("mixtral-8x7b", {"sliding_window": 4096, "layer_types": ["full_attention", "sliding_attention"] * 16}),
    ],
)
def test_a_mixture_whose_windows_vllm_does_not_keep_to_is_not_planned(name, change, ask):
    config = MODELS[name]["config"]
    assert "windows of some layers" in ask({**config, **change})["headline"]
    assert not ask(config)["headline"].startswith("not planned")


def test_windows_that_begin_in_the_middle_are_refused_without_a_list(ask):
    config = {
        key: value for key, value in CASES["qwen3-4b-pruned-layer-types"]["config"].items() if key != "layer_types"
    }
    assert ask(config)["headline"].startswith("refuses, phase load")
    assert not ask({**config, "use_sliding_window": False})["headline"].startswith("refuses")


@pytest.mark.parametrize("name", ["Kimi-K2.7-Code-NVFP4", "MiniMax-M2.7-NVFP4"])  # no states, no windows
def test_a_checkpoints_scheme_of_the_cache_is_that_of_the_plan(name, ask):
    said = ask(CASES[name]["config"])
    (request,) = (term for term in said["terms"] if term["name"] == "KV cache of one request")
    expected = CASES[name]["expected"]["auto_kv_bytes_per_token"]
    assert request["size_bytes"] / said["length_tokens"] == pytest.approx(expected, rel=1e-3)
