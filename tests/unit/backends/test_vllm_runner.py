"""Which of vLLM's model runners is chosen, the default share, and devices of their own rules, against public boot logs."""

import json
from pathlib import Path

import pytest

from pytest_longctx.backends.vllm import Vllm, overhead, settings
from pytest_longctx.backends.vllm.overhead import Trial
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape, of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB
from tests.unit.factories import LLAMA_8B

MODELS = json.loads((Path(__file__).parents[2] / "data/shapes" / "models.json").read_text())


def shape_of(config, architecture="") -> Shape:
    found = read(config)
    assert isinstance(found, ModelShape)
    return of(found, architecture)


def deployed(version=None, hardware="1xH100", env=None, **flags) -> Deployment:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    facts = {"name": "one", "title": "", "backend": "vllm", "hardware": hardware, "max_model_len": 8192}
    return Deployment.model_validate(
        facts | {"version": version, "model": {"name": "M"}, "flags": named, "env": env or {}}
    )


@pytest.mark.parametrize(
    ("version", "architecture", "second"),
    [
        (None, "", True),
        ("==0.29.0", "Qwen3MoeForCausalLM", True),
        ("==0.28.0", "Qwen3ForCausalLM", True),
        ("==0.23.0", "LlamaForCausalLM", True),
        ("==0.27.0", "Qwen2ForCausalLM", None),
        ("==0.21.0", "LlamaForCausalLM", False),
        ("==0.19.0", "Qwen3ForCausalLM", False),
    ],
)
def test_the_runner_is_that_of_the_version_and_the_class(version, architecture, second):
    assert settings.second_runner(deployed(version), shape_of(LLAMA_8B, architecture)) is second


def test_the_first_runner_is_kept_where_the_second_lacks_something():
    shape = shape_of(LLAMA_8B, "LlamaForCausalLM")
    assert settings.second_runner(deployed("==0.31.0", env={"VLLM_USE_V2_MODEL_RUNNER": "0"}), shape) is False
    assert settings.second_runner(deployed("==0.20.0", env={"VLLM_USE_V2_MODEL_RUNNER": "1"}), shape) is True
    assert settings.second_runner(deployed("==0.31.0", speculative_config='{"method": "suffix"}'), shape) is False
    assert settings.second_runner(deployed("==0.31.0", "1xMI300X"), shape) is None
    moe = shape_of(MODELS["qwen3-30b-a3b"]["config"], "Qwen3MoeForCausalLM")
    hybrid = shape_of(MODELS["Qwen3.6-27B"]["config"], "Qwen3_5ForConditionalGeneration")
    packed = shape_of(
        LLAMA_8B | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}, "LlamaForCausalLM"
    )
    assert [settings.second_runner(deployed("==0.27.0"), each) for each in (moe, hybrid, packed)] == [False] * 3


def test_the_second_runner_samples_from_the_logits_of_the_model():
    """0.31.0, Llama-3.1-8B with no flags on an H100: 15.26 GiB of weights and libraries, 1.44 of activations and graphs, 56.21 left."""
    found = Vllm().predict(deployed("==0.31.0"), shape_of(LLAMA_8B, "LlamaForCausalLM"), 79.25 * GiB)
    assert found is not None
    sizes = {term.name: term for term in found.terms}
    assert sizes["KV pool"].size_bytes / GiB == pytest.approx(56.21, abs=0.1)
    assert sizes["KV pool"].bounds_bytes is not None
    low, high = sizes["KV pool"].bounds_bytes
    assert low <= 56.21 * GiB <= high


def test_either_runner_is_within_the_bounds():
    shape = shape_of(LLAMA_8B)
    first, second, either = (
        overhead.activation_bytes(shape, Trial(1024, 8192, second_runner=each)) for each in (False, True, None)
    )
    assert second.expected < first.expected
    assert (either.low, either.high) == (second.low, first.high)


@pytest.mark.parametrize(
    ("version", "share"), [("==0.12.0", 0.9), ("==0.19.0", 0.9), ("==0.20.1", 0.92), ("==0.25.1", 0.92), (None, 0.92)]
)
def test_the_default_share_is_that_of_the_version(version, share):
    assert settings.share(deployed(version)) == share
    assert settings.share(deployed(version, gpu_memory_utilization=0.5)) == 0.5


def test_a_device_that_shares_the_memory_of_its_host_is_an_interval():
    """Two public boots on a GB10: 0.8 and 1.1 GiB more than the same terms elsewhere."""
    one = overhead.not_torch_bytes(Trial(256, 2048, shared=True))
    plain = overhead.not_torch_bytes(Trial(256, 2048))
    assert one.expected - plain.expected == pytest.approx(0.9 * GiB)
    assert one.high - plain.high == pytest.approx(3 * GiB)
    assert settings.trial(
        deployed("==0.31.0", "1xGB10"), settings.Load(256, 2048), shape_of(LLAMA_8B), tensor_parallel=1
    ).shared


@pytest.mark.parametrize(("version", "tokens"), [("==0.32.0", 8192), ("==0.33.0", 2048)])
def test_batches_of_a_gb10_are_small_since_0_33(version, tokens):
    assert settings.load(deployed(version, "1xGB10"), 121.7 * GiB).max_batched_tokens == tokens


@pytest.mark.parametrize(("stages", "version", "batches"), [(1, "==0.32.0", 2), (4, "==0.32.0", 5), (4, "==0.31.0", 1)])
def test_a_pipeline_has_one_batch_more_in_flight_than_stages(stages, version, batches):
    """``max_concurrent_batches`` of 0.32.0, with the second runner."""
    assert settings.in_flight(deployed(version, pipeline_parallel_size=stages), 8192) == batches * 8192
