"""The capacity arithmetic compared with real boots and documented runs. Every figure here was logged or measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends.sglang import memory
from pytest_longctx.backends.vllm import memory as vllm_memory
from pytest_longctx.backends.vllm.overhead import Trial
from pytest_longctx.deployments.random_models import TINY_LLAMA4
from pytest_longctx.deployments.shape import from_config, known
from pytest_longctx.errors import ModelError
from pytest_longctx.units import GiB, Mi

SCOUT = known()["llama-4-scout"]
TINY = from_config(TINY_LLAMA4)
SCOUT12 = known()["llama-4-scout-12-layers"]
"""Scout's shape with 12 of 48 layers, as run on one H200."""


@pytest.mark.parametrize(
    ("name", "billions", "active", "kinds"),
    [
        ("llama-4-scout", 107.77, 17.17, (12, 36, 0)),  # the text part of "109B, 17B active"
        ("llama-3.3-70b", 70.55, 70.55, (80, 0, 0)),
        ("llama-2-7b", 6.74, 6.74, (32, 0, 0)),
        ("llama-2-70b", 68.98, 68.98, (80, 0, 0)),
        ("codellama-34b", 33.74, 33.74, (48, 0, 0)),
        ("qwen3-32b", 32.76, 32.76, (64, 0, 0)),
    ],
)
def test_parameters_and_layers_are_the_published_ones(name, billions, active, kinds):
    shape = known()[name]
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert shape.active_parameters / 1e9 == pytest.approx(active, abs=0.01)
    assert (shape.full, shape.chunked, shape.sliding) == kinds


WINDOWED = {"model_type": "qwen2", "sliding_window": 512, "use_sliding_window": True}
LLAMA_4 = {"model_type": "llama4_text", "num_local_experts": 2, "intermediate_size_mlp": 8}


@pytest.mark.parametrize(
    ("extra", "kinds"),
    [
        ({**WINDOWED, "layer_types": ["full_attention", "sliding_attention"] * 2}, (2, 0, 2)),
        ({"model_type": "mistral", "sliding_window": 512}, (0, 0, 4)),
        ({**WINDOWED, "use_sliding_window": False}, (4, 0, 0)),
        ({**WINDOWED, "max_window_layers": 3}, (3, 0, 1)),
        ({**LLAMA_4, "attention_chunk_size": 512}, (1, 3, 0)),
        ({**LLAMA_4, "attention_chunk_size": 512, "no_rope_layers": [0, 1, 0, 1]}, (2, 2, 0)),
        ({**LLAMA_4, "attention_chunk_size": 0}, (4, 0, 0)),
    ],
)
def test_layers_are_told_apart_by_what_they_attend_to(extra, kinds):
    plain = {
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    shape = from_config({**plain, **extra})
    assert (shape.full, shape.chunked, shape.sliding) == kinds
    assert shape.window == (512 if kinds[0] != 4 else 0)


def test_a_multimodal_config_is_read_by_its_text_part():
    with pytest.raises(ModelError, match=r"not understood: text_config"):
        from_config({"text_config": {"num_hidden_layers": 1}, "model_type": "llama4"})
    assert from_config({"text_config": TINY_LLAMA4, "model_type": "llama4"}) == TINY


def test_weights_are_all_parameters_and_a_table_nobody_shards():
    """27.64 GiB for each GPU were logged (vLLM 0.25.1, 8 x H200), 58.12 GiB (SGLang 0.5.16, 12 layers, one H200); not "4 GB"."""
    assert SCOUT.weight_bytes(2, 8, rope_value_bytes=2) / GiB == pytest.approx(27.64, abs=0.06)
    assert SCOUT12.weight_bytes(2, 1, rope_value_bytes=4) / GiB == pytest.approx(58.12, abs=0.06)


def logged_tokens(pool: vllm_memory.Pool, tokens: int) -> int:
    """The size of the KV cache as vLLM 0.25 and later log it."""
    return int(pool.concurrency(tokens) * tokens)


BOOTS = {
    "vLLM 0.12.0, 8 x H200, BF16, 5Mi, hybrid on": (SCOUT, 89.71, 2, 5 * Mi, True, 2.96, None),
    "the same, hybrid off": (SCOUT, 89.71, 2, 5 * Mi, False, 0.75, 3_919_664),
    "the same, 8Mi, hybrid on": (SCOUT, 89.71, 2, 8 * Mi, True, 1.86, None),
    "the same, FP8, 10M": (SCOUT, 89.71, 1, 10_000_000, True, 3.12, None),
    "vLLM 0.25.1, 8 x H200, FP8, 10M": (SCOUT, 94.55, 1, 10_000_000, True, 3.29, 32_884_669),
}


@pytest.mark.parametrize(
    ("shape", "gib", "value_bytes", "length", "hybrid", "concurrency", "size"), BOOTS.values(), ids=BOOTS
)
def test_logged_capacity_is_reproduced(shape, gib, value_bytes, length, hybrid, concurrency, size):
    pool = vllm_memory.Pool(shape, gib * GiB, value_bytes, tensor_parallel=8, hybrid=hybrid)
    assert pool.concurrency(length) == pytest.approx(concurrency, abs=0.01)
    if size is not None:  # the memory is logged to 0.01 GiB, and the size follows from it
        assert logged_tokens(pool, length) == pytest.approx(size, rel=0.005 / gib + 1e-6)


@pytest.mark.parametrize(("value_bytes", "size"), [(2, 3_919_664), (1, 7_838_976)])
def test_the_size_that_012_logs_is_reproduced(value_bytes, size):
    """The size is not the capacity: with the hybrid manager one request of 15.6M tokens fits into "3,919,664 tokens"."""
    pool = vllm_memory.Pool(SCOUT, 89.714 * GiB, value_bytes, tensor_parallel=8)
    logged = pool.blocks // pool.groups * pool.block_size  # it divides by groups that need little
    assert logged == pytest.approx(size, rel=1e-4)
    assert pool.longest() > 3.9 * logged


@pytest.mark.parametrize(
    ("gib", "batch", "needed", "longest"), [(1, 2048, 2.39, 4_163_456), (1, 4096, 2.39, 4_157_312)]
)
def test_a_refusal_is_predicted_with_its_sizes(gib, batch, needed, longest):
    """The tiny model on a CPU, 10M tokens into 1 GiB, with two batch sizes: exact to the token."""
    pool = vllm_memory.Pool(TINY, gib * GiB, block_size=128, max_batched_tokens=batch)
    assert pool.bytes_for(10_000_000) / GiB == pytest.approx(needed, abs=0.005)
    assert pool.longest() == longest


def test_the_capacity_of_the_cpu_boots_is_exact():
    pool = vllm_memory.Pool(TINY, 2 * GiB, block_size=128, max_batched_tokens=2048)
    assert (round(pool.concurrency(65_536), 2), logged_tokens(pool, 65_536)) == (87.15, 5_711_392)
    larger = replace(pool, available_bytes=3 * GiB)
    assert round(larger.concurrency(10_000_000), 2) == 1.25


H200 = 139.8 * GiB
OLD = Trial(1024, 8192, 8, version="==0.12.0")
"""The trial run of the engine of those runs, on eight devices."""
DOCUMENTED = {
    "2Mi": ({"max_model_len": 2 * Mi}, "serves"),
    "5Mi, hybrid off": ({"max_model_len": 5 * Mi, "hybrid": False}, "overcommits"),
    "5Mi, hybrid on": ({"max_model_len": 5 * Mi}, "serves"),
    "8Mi at 0.95": ({"max_model_len": 8 * Mi, "utilisation": 0.95}, "runs out of memory"),
    "8Mi at 0.90": ({"max_model_len": 8 * Mi}, "serves"),
    "10M, FP8": ({"max_model_len": 10_000_000, "value_bytes": 1}, "serves"),
    "10M, BF16, which was called impossible": ({"max_model_len": 10_000_000}, "serves"),
    "10M, BF16, hybrid off": ({"max_model_len": 10_000_000, "hybrid": False}, "overcommits"),
}


@pytest.mark.parametrize(("flags", "outcome"), DOCUMENTED.values(), ids=DOCUMENTED)
def test_documented_vllm_boots_come_out_as_they_did(flags, outcome):
    assert vllm_memory.predict(SCOUT, H200, tensor_parallel=8, trial=OLD, **flags).outcome == outcome


def test_the_sampler_failure_is_predicted_with_its_size_and_cure():
    found = vllm_memory.predict(SCOUT, H200, 8 * Mi, tensor_parallel=8, utilisation=0.95, trial=OLD)
    assert found.culprit is not None
    assert "sampler" in found.culprit.name
    assert found.failing_bytes == 1024 * 202_048 * 4
    assert found.cure == "--gpu-memory-utilization 0.90"


def test_a_model_too_large_for_its_devices_says_so():
    found = vllm_memory.predict(SCOUT, H200, 8192, tensor_parallel=1)
    assert (found.outcome, found.culprit and found.culprit.name, found.longest_tokens) == (
        "runs out of memory",
        "weights",
        0,
    )


def test_bf16_at_10m_is_one_and_a_half_requests():
    """It was documented that 10M needs FP8. The pool shows otherwise."""
    found = vllm_memory.predict(SCOUT, H200, 10_000_000, tensor_parallel=8, trial=OLD)
    assert found.concurrency == pytest.approx(1.56, abs=0.01)


SGLANG = memory.Boot(SCOUT, 138.1 * GiB, 10_000_000, 0.8, value_bytes=1, tensor_parallel=8, cuda_graph_max_bs=None)


@pytest.mark.parametrize("fraction", [0.80, 0.75, 0.70, 0.65])
def test_the_four_failures_at_10m_have_one_culprit_and_one_cure(fraction):
    boot = replace(SGLANG, mem_fraction_static=fraction)
    found = boot.predict()
    assert found.outcome == "runs out of memory"
    assert found.culprit is not None
    assert found.culprit.name == "req_to_token"
    assert found.culprit.size_bytes / GiB == pytest.approx(76.33, abs=0.005)
    assert found.cure == "--max-running-requests 8"
    assert replace(boot, max_running_requests=8).predict().fits


def test_the_allocation_that_fails_is_not_the_culprit():
    """One H200, 0.5.16: "Tried to allocate 2.22 GiB", and 2.09 GiB with a pool for windowed layers; the cause were 76.33 GiB."""
    boot = replace(SGLANG, shape=SCOUT12, device_bytes=139.13 * GiB, tensor_parallel=1)
    assert boot.predict().failing_bytes == pytest.approx(2.22 * GiB, rel=0.003)
    assert replace(boot, hybrid_pool=True).predict().failing_bytes == pytest.approx(2.09 * GiB, rel=0.003)


def test_the_cured_boot_holds_what_it_logged():
    boot = replace(SGLANG, shape=SCOUT12, device_bytes=139.13 * GiB, tensor_parallel=1, max_running_requests=8)
    assert boot.pool_tokens == pytest.approx(2_323_091, rel=0.002)
    # The context is not the capacity: with 2,323,091 tokens a prompt must stay below 2,323,085.
    assert boot.longest_admitted == boot.pool_tokens - 7
    assert replace(boot, hybrid_pool=True).pool_tokens == pytest.approx(2_733_048, rel=0.002)
    assert boot.predict().fits


def test_the_graph_failure_at_2mi_is_four_gib():
    boot = memory.Boot(SCOUT, 138.2 * GiB, 2 * Mi, 0.85, tensor_parallel=8)
    found = boot.predict()
    assert (found.culprit and found.culprit.name, found.failing_bytes) == ("CUDA graph tables", 4 * GiB)
    assert found.cure == "--cuda-graph-max-bs 8"
    assert replace(boot, cuda_graph_max_bs=8).predict().fits
    assert replace(boot, cuda_graph_max_bs=None).predict().fits


def test_graphs_at_10m_meet_a_grid_that_is_too_tall():
    """One H200, 0.5.16, 25.6 GiB free, so memory is not the cause. A page of 64 tokens avoids the failure; both were measured."""
    boot = replace(
        SGLANG,
        shape=SCOUT12,
        device_bytes=139.13 * GiB,
        tensor_parallel=1,
        hybrid_pool=True,
        max_running_requests=8,
        cuda_graph_max_bs=8,
    )
    assert boot.predict().outcome == "dies"
    assert boot.longest_with_graphs == 8_388_480
    assert replace(boot, page_size=64).predict().fits
    assert (
        replace(boot, cuda_graph_max_bs=256).graph_table_bytes == boot.graph_table_bytes
    )  # no batch exceeds 8 requests
    large = replace(boot, max_running_requests=256, cuda_graph_max_bs=256).predict()
    assert large.failing_bytes is not None
    assert large.failing_bytes / GiB == pytest.approx(9.54, abs=0.005)


def test_a_pipeline_stage_holds_its_share_of_layers_and_weights():
    stage = SCOUT.stage(4)
    assert (stage.full, stage.chunked) == (3, 9)
    assert SCOUT.parameters / 4 < stage.parameters < SCOUT.parameters / 4 + SCOUT.embedding_parameters
    assert SCOUT.stage(1) == SCOUT


def test_host_tables_of_10m():
    """38 GiB of token ids in each worker by default, and as much again in flags and block tables; 8 slots need half a GiB."""
    assert vllm_memory.host_bytes_per_worker(1024, 10_000_000, 16, 4) / GiB == pytest.approx(57.2, abs=0.1)
    assert vllm_memory.host_bytes_per_worker(8, 10_000_000, 16, 4) / GiB < 0.5


POOLS = st.builds(
    vllm_memory.Pool,
    st.sampled_from([SCOUT, TINY, *known().values()]),
    st.floats(1 * GiB, 200 * GiB),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([16, 32, 128]),
    st.sampled_from([2048, 8192]),
    st.booleans(),
)


@given(POOLS, st.integers(1, 10_000_000), st.integers(1, 1_000_000))
def test_capacity_is_monotone(pool, length, more):
    """More memory never holds less, a longer context never fits more often, a smaller value never needs more space."""
    larger = replace(pool, available_bytes=pool.available_bytes * 1.5)
    assert larger.concurrency(length) >= pool.concurrency(length)
    assert larger.longest() >= pool.longest()
    assert pool.blocks_for(length + more) >= pool.blocks_for(length)
    assert replace(pool, value_bytes=1).concurrency(length) >= replace(pool, value_bytes=2).concurrency(length)


@given(POOLS)
def test_the_longest_request_fits_and_one_block_more_does_not(pool):
    longest = pool.longest()
    if longest:
        assert pool.blocks_for(longest) < pool.blocks
    assert pool.blocks_for(longest + pool.block_size) >= pool.blocks


PROFILED = {
    # boot: (shape, tensor parallel, max_num_seqs, share of the device, GiB logged as available)
    "12 layers, one H200, FP8": ("llama-4-scout-12-layers", 1, 1024, 0.92, 69.47),
    "48 layers, 4 x H200, BF16": ("llama-4-scout", 4, 1024, 0.90, 69.48),
    "48 layers, 4 x H200, FP8, 8 requests": ("llama-4-scout", 4, 8, 0.90, 71.79),
    "48 layers, 8 x H200, BF16": ("llama-4-scout", 8, 1024, 0.85, 87.57),
    "48 layers, 8 x H200, FP8": ("llama-4-scout", 8, 1024, 0.90, 94.55),
}


@pytest.mark.parametrize("boot", PROFILED)
def test_what_an_eager_boot_leaves_for_the_kv_cache_is_predicted_to_a_quarter_of_a_percent(boot):
    name, tensor_parallel, max_num_seqs, share, logged_gib = PROFILED[boot]
    shape = known()[name]
    other = vllm_memory.eager_other_bytes(shape, max_num_seqs, 8192, tensor_parallel)
    weights = shape.weight_bytes(2, tensor_parallel, rope_value_bytes=2)
    left_gib = vllm_memory.available_bytes(139.8 * GiB, share, weights, other) / GiB
    assert left_gib == pytest.approx(logged_gib, rel=0.0025)
