"""What vLLM makes of a deployment's flags (docs/reference/memory-defaults.md)."""

import json
from pathlib import Path

import pytest

from pytest_longctx.backends.vllm import settings
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

MODELS = json.loads((Path(__file__).parents[2] / "data/shapes/models.json").read_text())


def deployment(hardware: str = "1xH100", version: str | None = None, **flags: object) -> Deployment:
    made = {"name": "d", "title": "t", "backend": "vllm", "hardware": hardware, "max_model_len": 32_768}
    said = {} if version is None else {"version": version}
    return Deployment.model_validate(
        {**made, **said, "model": {"name": "m"}, "flags": {k.replace("_", "-"): v for k, v in flags.items()}}
    )


def shape_of(name: str, architecture: str = "", **changes: object):
    found = read({**MODELS[name]["config"], **changes})
    assert isinstance(found, ModelShape)
    return of(found, architecture)


@pytest.mark.parametrize(
    ("hardware", "gib", "version", "tokens", "requests"),
    [
        ("1xH100", 79.1, ">=0.25", 8192, 1024),
        ("1xH200", 139.8, "==0.32.0", 8192, 1024),
        ("1xB200", 178.4, "==0.27.0", 8192, 1024),
        ("1xB200", 178.4, "==0.28.0", 16_384, 1024),
        ("1xA100", 79.2, ">=0.25", 2048, 256),
        ("1xL40S", 44.4, ">=0.25", 2048, 256),
        ("1xH20", 95.1, ">=0.25", 8192, 1024),
    ],
)
def test_a_server_chooses_its_batch_by_the_device(hardware, gib, version, tokens, requests):
    found = settings.load(deployment(hardware, version), gib * GiB)
    assert (found.max_batched_tokens, found.max_num_seqs) == (tokens, requests)


def test_requests_are_never_more_than_tokens():
    found = settings.load(deployment(max_num_batched_tokens=512), 79.1 * GiB)
    assert (found.max_batched_tokens, found.max_num_seqs) == (512, 512)
    few = settings.load(deployment(max_num_seqs=2, max_num_batched_tokens=64), 79.1 * GiB)
    assert (few.max_batched_tokens, few.max_num_seqs) == (64, 2)


@pytest.mark.parametrize(
    ("hardware", "dtype", "token_bytes"),
    [("8xH200", "auto", 1152), ("8xH200", "fp8", 656), ("8xB200", "fp8", 576), ("8xH200", "fp8_ds_mla", 656)],
)
def test_sparse_latents_are_packed_by_the_kernels_of_the_device(hardware, dtype, token_bytes):
    one = deployment(hardware, "==0.32.0", kv_cache_dtype=dtype)
    layout = settings.layout(one, shape_of("DeepSeek-V3.2"), hybrid=True, ratio=1.5)
    assert layout is not None
    assert layout.latents.of(576) == token_bytes
    assert layout.block_size == 64


def test_glm_5_is_in_fp8_on_blackwell_by_itself():
    shape = shape_of("GLM-5", "GlmMoeDsaForCausalLM")
    assert settings.kv_dtype(deployment("8xB200"), shape) == "fp8_e4m3"
    assert settings.kv_dtype(deployment("8xH200"), shape) == "auto"


def test_a_checkpoint_s_dtype_is_taken_since_0_25():
    quantised = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    shape = shape_of("qwen3-30b-a3b", quantization_config=quantised)
    assert settings.kv_dtype(deployment(version=">=0.25"), shape) == "fp8"
    assert settings.kv_dtype(deployment(version="==0.12.0"), shape) == "auto"
    assert settings.kv_dtype(deployment(version=">=0.25", kv_cache_dtype="bfloat16"), shape) == "bfloat16"


@pytest.mark.parametrize(
    ("version", "flags", "kept", "blocks"),
    [
        ("==0.32.0", {}, True, {"mamba2"}),
        ("==0.33.0", {}, True, {"mamba2", "gated_delta"}),
        ("==0.12.0", {}, False, set()),
        ("==0.32.0", {"enable_prefix_caching": False}, False, {"mamba2"}),
    ],
)
def test_states_are_kept_by_version_and_flag(version, flags, kept, blocks):
    layout = settings.layout(deployment(version=version, **flags), shape_of("qwen3-next-80b"), hybrid=True, ratio=1.5)
    assert layout is not None
    assert (layout.prefix_caching, layout.checkpoints) == (kept, blocks)


@pytest.mark.parametrize(
    ("version", "flags", "tokens"),
    [
        (None, {}, 8192),
        ("==0.25.1", {}, 8192),
        ("==0.32.0", {}, 16_384),
        ("==0.32.0", {"async_scheduling": False}, 8192),
        ("==0.32.0", {"pipeline_parallel_size": 4}, 40_960),
        ("==0.32.0", {"pipeline_parallel_size": 4, "async_scheduling": False}, 32_768),
    ],
)
def test_windows_reserve_for_all_that_is_scheduled(version, flags, tokens):
    assert settings.in_flight(deployment(version=version, **flags), 8192) == tokens


@pytest.mark.parametrize(
    ("name", "version", "flags", "why"),
    [
        ("minicpm3-4b", "==0.32.0", {}, "kv_lora_rank of minicpm3"),
        ("DeepSeek-V3.2", "==0.12.0", {}, "index_topk before 0.25"),
        ("qwen3-next-80b", "==0.12.0", {"enable_prefix_caching": True}, "--enable-prefix-caching"),
        ("qwen3-next-80b", "==0.32.0", {"mamba_cache_mode": "all"}, "--mamba-cache-mode all"),
        ("DeepSeek-V3.2", "==0.32.0", {}, ""),
    ],
)
def test_what_is_not_known_is_named(name, version, flags, why):
    found = settings.unlaid(deployment(version=version, **flags), shape_of(name))
    assert found.startswith(why)
    assert bool(found) == bool(why)
