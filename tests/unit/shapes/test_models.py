"""Published models: parameters as the real class has them, bytes of the cache as published."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, read

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "models.json").read_text())

COUNTED_OTHERWISE = {
    # transformers gives the experts that only pass their input on weights of their own; published: 560B.
    "longcat-flash": 560e9,
    # transformers' class does not know attn_type_list, and alternates; published: 456B.
    "minimax-m1": 456e9,
    "minimax-text-01": 456e9,
}

PUBLISHED_PARAMETERS = {
    # No class here has them; from their publishers.
    "chatglm3-6b": 6.24e9,
    "hunyuan-large": 389e9,
    "internlm3-8b": 8.80e9,
    "ling-flash-2.0": 103e9,
    "step-3.5-flash": 197e9,
    "qwen2.5-vl-7b": 8.29e9,
    "Llama-3_3-Nemotron-Super-49B-v1": 49.9e9,
    "exaone-4.0-1.2b": 1.28e9,
    "kimi-linear-48b": 49.1e9,
    "mistral-small-3.2": 24.0e9,
    "gemma-3-27b": 27.4e9,
    "Nemotron-H-56B-Base-8K": 56.2e9,
}

PUBLISHED_KV = {
    "llama-3.3-70b": 80 * 2 * 8 * 128 * 2,
    "qwen2.5-7b-1m": 57_344,
    "DeepSeek-V3": 70_272,
    "Kimi-K2-Instruct": 70_272,
    "qwen3-next-80b": 24_576,
    "gpt-oss-120b": 36_864,
    "gemma-3-27b": 81_920,
    "nemotron-h-8b": 16_384,
    # 61 layers of 576 values in BF16 and a key of 128 in FP8 with its scale
    "DeepSeek-V3.2": 61 * (1152 + 132),
    # 78 layers, of which 21 have an indexer of their own
    "GLM-5.2": 78 * 1152 + 21 * 132,
    # 10 full layers of 4 heads of 512 values, keys and values the same projection but two caches
    "Gemma-4-31B-IT-NVFP4": 10 * 2 * 4 * 512 * 2,
    # 20 layers of 35 cache, and of these every fifth attends to everything
    "gemma-3n-e4b": 4 * 2 * 2 * 256 * 2,
    # every second layer borrows
    "hunyuan-large": 32 * 2 * 8 * 128 * 2,
    # keys of 192 and values of 128 values
    "MiMo-V2-Flash": 9 * 4 * (192 + 128) * 2,
    "Llama-4-Scout-17B-16E-Instruct": 12 * 2 * 8 * 128 * 2,
    "mistral-7b-v0.1": 0,
    # 11 latents of 512 values without rotation, and a key of 132 bytes for each 4 tokens
    "GLM-5.3-Flash": 11 * (1024 + 132 // 4),
    # 34 latents of 576 values; 10 layers have an indexer, the others use the one before
    "HY-4": 34 * 1152 + 10 * 132,
    # 12 layers attend, with one averaged key of 128 values in BF16 for each 4 tokens
    "Qwen3.8-Flash-Next": 12 * (2 * 2 * 256 * 2 + 128 * 2 // 4),
    "Mistral-Small-4": 36 * (256 + 64) * 2,
    # every sixth layer attends to everything
    "Inkling": 11 * 2 * 8 * 128 * 2,
    "Inkling-Small": 7 * 2 * 8 * 128 * 2,
    "ERNIE-4.5-VL-28B-A3B": 28 * 2 * 4 * 128 * 2,
    "Phi-4-multimodal": 32 * 2 * 8 * 128 * 2,
}

PUBLISHED_STATE = {
    # 34 layers: three taps of queries, keys and values, and a matrix in FP32 for each head; 11 tails of 4 keys and scores
    "GLM-5.3-Flash": 34 * (3 * 3 * 8192 * 2 + 64 * 128 * 128 * 4) + 11 * 2 * 4 * 128 * 2,
    # 36 layers as in Qwen3-Next; one convolution over 4 streams, dilated by 3; 12 rings of 4 keys with their positions
    "Qwen3.8-Flash-Next": 36 * (3 * 10240 * 2 + 48 * 128 * 128 * 4) + 9 * 4 * 2560 * 2 + 12 * 4 * (128 + 12) * 2,
    # three taps of keys, values and both outputs, in layers of 16 and of 8 KV heads
    "Inkling": 55 * 3 * 2 * (16 * 128 + 6144) * 2 + 11 * 3 * 2 * (8 * 128 + 6144) * 2,
    "Inkling-Small": 42 * 3 * 2 * (8 * 128 + 4096) * 2,
}

WITH_TOWERS = {
    # The real classes of transformers 5.19, whole.
    "GLM-5.3-Flash": 313_890_426_878,
    "Mistral-Small-4": 119_401_298_944,
    "Inkling": 947_117_161_538,
    "ERNIE-4.5-VL-28B-A3B": 29_399_294_336,
    "Phi-4-multimodal": 4_744_004_032,
}


def shape(name: str) -> ModelShape:
    found = read(MODELS[name]["config"])
    assert isinstance(found, ModelShape), found
    return found


def test_there_are_many() -> None:
    assert len(MODELS) >= 60
    assert len({shape(name).model_type for name in MODELS}) >= 40


@pytest.mark.parametrize("name", sorted(n for n, m in MODELS.items() if m["counted"] and n not in COUNTED_OTHERWISE))
def test_parameters_are_those_of_the_real_class(name: str) -> None:
    assert shape(name).text_parameters == MODELS[name]["counted"]


@pytest.mark.parametrize(("name", "published"), sorted((COUNTED_OTHERWISE | PUBLISHED_PARAMETERS).items()))
def test_parameters_are_within_one_percent_of_the_published(name: str, published: float) -> None:
    assert shape(name).parameters == pytest.approx(published, rel=0.01)


def test_no_model_is_without_a_truth() -> None:
    without = {n for n, m in MODELS.items() if not m["counted"]}
    assert without - set(PUBLISHED_PARAMETERS) <= {"Step-3.7-Flash", "Kimi-K3"}


@pytest.mark.parametrize(("name", "kv_bytes"), sorted(PUBLISHED_KV.items()))
def test_bytes_per_token_are_the_published(name: str, kv_bytes: int) -> None:
    assert shape(name).kv_bytes_per_token() == kv_bytes


@pytest.mark.parametrize(("name", "state_bytes"), sorted(PUBLISHED_STATE.items()))
def test_bytes_of_a_state_are_those_of_the_engine(name: str, state_bytes: int) -> None:
    assert shape(name).state_bytes() == state_bytes


@pytest.mark.parametrize(("name", "parameters"), sorted(WITH_TOWERS.items()))
def test_parameters_with_towers_are_those_of_the_real_class(name: str, parameters: int) -> None:
    assert shape(name).parameters == pytest.approx(parameters, rel=0.002)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_nothing_has_changed(name: str) -> None:
    found, kept = shape(name), MODELS[name]
    assert (found.parameters, found.kv_bytes_per_token(), found.state_bytes()) == (
        kept["parameters"],
        kept["kv_bytes_per_token"],
        kept["state_bytes"],
    )


@pytest.mark.parametrize("name", sorted(MODELS))
def test_shares_of_devices_add_up(name: str) -> None:
    found = shape(name)
    whole, eighth = found.weight_bytes(1), found.weight_bytes(8)
    assert whole / 8 <= eighth <= whole
    assert found.active_parameters <= found.text_parameters
    assert found.kv_bytes_per_token(2, 8) >= found.kv_bytes_per_token(2, 1) / 8
    assert found.kv_bytes(100_000) <= found.kv_bytes_per_token(windowed=True) * 100_000 + 1_000_000
    assert found.stage(2).parameters <= found.parameters


ACTIVE = {
    "DeepSeek-V3": 37e9,
    "qwen3-30b-a3b": 3.3e9,
    "gpt-oss-120b": 5.1e9,
    "mixtral-8x7b": 12.9e9,
    "qwen3-235b": 22e9,
}


@pytest.mark.parametrize(("name", "active"), sorted(ACTIVE.items()))
def test_active_parameters_are_the_published(name: str, active: float) -> None:
    # Publishers round, and some leave the input table out.
    assert shape(name).active_parameters == pytest.approx(active, rel=0.16)
