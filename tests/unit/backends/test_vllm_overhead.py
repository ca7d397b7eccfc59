"""What vLLM takes beside weights and cache, against public boots (llm-d-planner, pull request 205, and its older table)."""

import json
from pathlib import Path

import pytest

from pytest_longctx.backends.vllm import overhead
from pytest_longctx.backends.vllm.overhead import Trial
from pytest_longctx.deployments.shape import of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

MODELS = json.loads((Path(__file__).parents[2] / "data/shapes" / "models.json").read_text())
V19, OLD = "==0.19.0", "==0.15.0"
PEAKS = {
    # model, devices, version: GiB of "torch peak memory increase", 1,024 requests, 8,192 tokens, one or two H100
    ("phi-4", 1, V19): 1.52,
    ("phi-2", 1, V19): 0.79,
    ("gemma-2-9b", 1, V19): 3.65,
    ("gemma-2-27b", 1, V19): 3.66,
    ("gemma-7b", 1, V19): 3.63,
    ("granite-3.3-8b", 1, V19): 0.85,
    ("deepseek-v2-lite", 1, V19): 1.93,
    ("qwen3-30b-a3b", 1, V19): 2.68,
    ("mixtral-8x7b", 2, V19): 1.21,
    ("llama-3.3-70b", 2, V19): 1.96,
    ("qwen2.5-72b", 4, V19): 2.29,
    ("llama-3.3-70b", 2, OLD): 4.84,
    ("qwen3-32b", 1, OLD): 5.64,
}


@pytest.mark.parametrize(("name", "devices", "version"), PEAKS)
def test_the_peak_of_the_trial_run_is_the_one_that_was_logged(name, devices, version):
    found = read(MODELS[name]["config"])
    assert isinstance(found, ModelShape)
    peak = overhead.activation_bytes(of(found), Trial(1024, 8192, devices, version=version))
    assert peak.expected / GiB == pytest.approx(PEAKS[name, devices, version], abs=0.05)
    assert peak.low <= peak.expected <= peak.high


@pytest.mark.parametrize(
    ("devices", "version", "eager", "logged_gib"),
    [(1, V19, False, 0.25), (1, OLD, False, 0.13), (2, OLD, False, 0.55), (2, V19, False, 2.07), (4, V19, False, 2.13)],
)
def test_memory_of_libraries_is_near_what_was_logged(devices, version, eager, logged_gib):
    found = overhead.not_torch_bytes(Trial(1024, 8192, devices, eager=eager, version=version))
    assert found.expected / GiB == pytest.approx(logged_gib, abs=0.03)
    assert found.low < logged_gib * GiB < found.high


@pytest.mark.parametrize(
    ("name", "gib"), [("qwen3-30b-a3b", 1.24), ("deepseek-v2-lite", 1.39), ("gemma-3-27b", 1.05), ("phi-4", 0.81)]
)
def test_the_estimate_of_graphs_is_within_its_bounds(name, gib):
    found = read(MODELS[name]["config"])
    assert isinstance(found, ModelShape)
    size = overhead.graph_bytes(of(found), Trial(1024, 8192))
    assert size.low <= gib * GiB <= size.high
    assert overhead.graph_bytes(of(found), Trial(1024, 8192, version=V19)).high == 0  # not yet taken off the pool
    assert overhead.graph_bytes(of(found), Trial(1024, 8192, eager=True)).high == 0


def test_flashinfer_samples_without_sorting_where_it_is_installed():
    assert Trial(1024, 8192, version="==0.11.0").sorts
    assert not Trial(1024, 8192, version="==0.11.0", flashinfer=True).sorts
    assert Trial(1024, 8192, version="==0.15.0", flashinfer=True).sorts
    assert not Trial(1024, 8192, version="==0.19.0").sorts


def test_mxfp4_experts_are_padded():
    """gpt-oss-120b: 60.77 GiB, of which 64.38 and 65.97 were loaded."""
    config = MODELS["gpt-oss-120b"]["config"] | {"quantization_config": {"quant_method": "mxfp4"}}
    found = read(config)
    assert isinstance(found, ModelShape)
    least, most = (size / GiB for size in overhead.padding_bytes(found, 1))
    assert 60.77 + least == pytest.approx(64.38, abs=0.25)
    assert 60.77 + most == pytest.approx(65.97, abs=0.25)
