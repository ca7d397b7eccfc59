"""A deployment for any GPU, on the GPU that a machine has."""

import pytest

from pytest_longctx import paths, registry
from pytest_longctx.backends import Backend, defaults
from pytest_longctx.deployments import deployment
from pytest_longctx.deployments.hardware import Hardware, Machine

SHIPPED = deployment.load_all((paths.suites() / "deployments",))


def backend(name: str) -> Backend:
    made: Backend = registry.load(registry.BACKENDS[name])()
    return made


def on(name: str, hardware: str) -> deployment.Deployment:
    one = SHIPPED[name]
    return defaults.settle(one, backend(one.backend), Machine(Hardware.parse(hardware)))


@pytest.mark.parametrize(
    ("hardware", "length"),
    [
        ("1xH100", 10_001_024),
        ("8xH100", 10_001_024),
        ("1xA100", 10_001_024),
        ("1xL4", 5_001_024),  # 10M tokens would fit its memory, and take more than longest_prompt_s
        ("1x80GiB", 5_001_024),  # its speed is not known
        ("1x6GiB", 5_001_024),
        ("1x3GiB", 1_001_024),
        ("1x2GiB", 33_024),  # nothing fits: the engine says so
    ],
)
def test_any_gpu_serves_the_longest_context_that_fits_and_is_read_in_time(hardware, length):
    one = on("gpu-probe-vllm", hardware)
    assert one.max_model_len == length
    assert one.hardware == str(Hardware(Hardware.parse(hardware).kind))


@pytest.mark.parametrize("hardware", ["cpu", "16xtrn1"])
def test_without_a_gpu_it_keeps_what_its_file_says(hardware):
    one = on("gpu-probe-vllm", hardware)
    assert (one.hardware, one.max_model_len) == ("1xGPU", None)


def test_a_slower_gpu_is_expected_to_take_longer():
    fast, slow = (on("gpu-probe-vllm", name).timeouts.expected_prefill_s(1_000_000) for name in ("H100", "L4"))
    assert 5 * fast < slow
    assert on("gpu-probe-vllm", "1x40GiB").timeouts.expected_prefill_s(1_000_000) > slow


@pytest.mark.parametrize("name", ["gpu-probe-vllm", "gpu-probe-vllm-rocm", "gpu-probe-sglang"])
def test_the_context_of_a_24_gb_card_is_predicted_to_fit(name):
    one = on(name, "1xRTX4090")
    assert one.max_model_len in SHIPPED[name].context_lengths
    assert (one.max_model_len or 0) > 1_000_000
