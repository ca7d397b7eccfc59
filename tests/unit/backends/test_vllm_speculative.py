"""Draft models, adapters, offloaded weights and fixed pools of vLLM, against public logs and the engine's own sizes."""

import json
from pathlib import Path

import pytest

from pytest_longctx.backends.vllm import Vllm, lora, speculative
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import Shape, of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB
from tests.unit.factories import LLAMA_8B

MODELS = json.loads((Path(__file__).parents[2] / "data/shapes" / "models.json").read_text())


def shape_of(config) -> Shape:
    found = read(config)
    assert isinstance(found, ModelShape)
    return of(found)


def deployed(version="==0.31.0", hardware="1xH100", **flags) -> Deployment:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return Deployment.model_validate(
        {
            "name": "one",
            "title": "",
            "backend": "vllm",
            "hardware": hardware,
            "version": version,
            "max_model_len": 131072,
            "model": {"name": "M"},
            "flags": named,
        }
    )


def planned(config=LLAMA_8B, **flags):
    found = Vllm().predict(deployed(**flags), shape_of(config), 79.1 * GiB)
    assert found is not None
    return found


def sizes(found):
    return {term.name: term.size_bytes / GiB for term in found.terms}


EAGLE = '{"method": "eagle", "model": "E", "num_speculative_tokens": 3}'


def test_a_layer_that_drafts_has_a_cache_of_its_own():
    """Vllm 0.9.1, Llama-3.1-8B with EAGLE on an H100: 51.63 GiB are 410,128 tokens, of 33 layers and not 32."""
    one = sizes(planned(speculative_config=EAGLE))
    plain = sizes(planned())
    assert one["KV cache of one request"] / plain["KV cache of one request"] == 33 / 32
    assert int(51.63 * GiB / (33 * 4096)) // 16 * 16 == pytest.approx(410_128, abs=64)
    assert 0.3 < one["weights"] - plain["weights"] < 0.8  # a layer of 0.41 GiB, and the projection before it


def test_prediction_of_more_tokens_takes_a_layer_and_states():
    """Qwen3.6-27B: 0.79 GiB of weights (19.78 to 20.57 logged), a layer of the 16 that attend, and a state per drafted token."""
    config = MODELS["Qwen3.6-27B"]["config"]
    drafted = '{"method": "mtp", "num_speculative_tokens": 2}'
    one, plain = planned(config, speculative_config=drafted, max_num_seqs=64), planned(config, max_num_seqs=64)
    assert sizes(one)["weights"] - sizes(plain)["weights"] == pytest.approx(0.79, abs=0.05)
    states = [speculative.draft_tokens(deployed(speculative_config=each).flags) for each in (drafted, "{}")]
    assert states == [2, 0]
    # 16 groups of one layer and 48 of states are 17 and 51, as its log pads them.
    assert sizes(one)["KV cache of one request"] / sizes(plain)["KV cache of one request"] > 17 / 16


@pytest.mark.parametrize("method", ["ngram", "suffix"])
def test_a_draft_from_the_text_takes_no_memory(method):
    found = planned(speculative_config=json.dumps({"method": method, "num_speculative_tokens": 4}))
    assert sizes(found)["KV cache of one request"] == sizes(planned())["KV cache of one request"]
    assert sizes(found)["weights"] == sizes(planned())["weights"]


def test_a_draft_model_of_unknown_size_is_named():
    told = '{"method": "draft_model", "model": "x/y", "num_speculative_tokens": 2}'
    assert Vllm().unsized(deployed(speculative_config=told), shape_of(LLAMA_8B)) == ("speculative-config",)
    assert Vllm().unsized(deployed(speculative_config=EAGLE), shape_of(LLAMA_8B)) == ()


def test_a_draft_model_at_hand_is_counted():
    target, small = shape_of(LLAMA_8B), read(MODELS["llama-3.2-1b"]["config"])
    assert isinstance(small, ModelShape)
    told = '{"model": "meta-llama/Llama-3.2-1B", "num_speculative_tokens": 5}'
    from dataclasses import replace

    found = speculative.draft(deployed(speculative_config=told), replace(target, draft=small), 1)
    assert found is not None
    assert found.weights.expected == pytest.approx(small.weight_bytes(1, 2))
    assert sum(count for _, count in found.caches) == 16


def test_slots_for_adapters_are_those_of_every_matrix():
    """Of one layer of Llama-3.1-8B, by hand: q, k, v, o, gate, up and down, each with rank rows on both sides."""
    by_hand = 0
    for rows, columns in (
        (4096, 4096),
        (1024, 4096),
        (1024, 4096),
        (4096, 4096),
        (14336, 4096),
        (14336, 4096),
        (4096, 14336),
    ):
        by_hand += rows + columns
    ends = 2 * (128256 + 4096)
    flags = deployed(enable_lora=True, max_loras=4, max_lora_rank=64)
    assert lora.adapters_bytes(flags, shape_of(LLAMA_8B), 1) == 2 * 4 * 64 * (32 * by_hand + ends)
    assert lora.adapters_bytes(deployed(max_loras=4), shape_of(LLAMA_8B), 1) == 0
    half = lora.adapters_bytes(flags, shape_of(LLAMA_8B), 2)
    assert half > lora.adapters_bytes(flags, shape_of(LLAMA_8B), 1) / 2  # the other side stays whole
    sharded = deployed(enable_lora=True, max_loras=4, max_lora_rank=64, fully_sharded_loras=True)
    assert lora.adapters_bytes(sharded, shape_of(LLAMA_8B), 2) < half


def test_offloaded_weights_leave_room_for_the_cache():
    one, plain = sizes(planned(cpu_offload_gb=4)), sizes(planned())
    assert plain["weights"] - one["weights"] == pytest.approx(4)
    assert one["KV pool"] - plain["KV pool"] == pytest.approx(4)
    assert sizes(planned(cpu_offload_gb=400))["weights"] == 0


def test_a_pool_that_is_fixed_is_that_large_or_too_large():
    assert sizes(planned(kv_cache_memory_bytes=20 * 2**30))["KV pool"] == 20
    blocks = planned(num_gpu_blocks_override=10_000)
    assert sizes(blocks)["KV pool"] * GiB == 10_000 * 16 * 131_072
    beyond = planned(kv_cache_memory_bytes=70 * 2**30)
    assert (beyond.outcome, beyond.culprit.name) == ("runs out of memory", "KV pool")


def test_tokens_are_divided_among_devices_with_the_same_heads():
    """vllm-project/vllm#24864: of a model with latents, so many times more tokens as there are devices that share them."""
    config = MODELS["deepseek-v3"]["config"]
    found = read(config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})
    assert isinstance(found, ModelShape)
    flags = {"tensor-parallel-size": 8, "kv-cache-dtype": "fp8"}
    tokens = {}
    for parts in (1, 8):
        one = deployed(hardware="8xH200", **flags, decode_context_parallel_size=parts)
        predicted = Vllm().predict(one, of(found), 139.8 * GiB)
        assert predicted is not None
        tokens[parts] = predicted.longest_tokens
    assert tokens[8] == pytest.approx(8 * tokens[1], rel=0.001)
