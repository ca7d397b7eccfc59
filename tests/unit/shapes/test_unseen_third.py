"""172 more public configs, with answers of vLLM's own classes that were written down before the reader was asked."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from tests.unit.shapes import published_configs

CASES = json.loads((Path(__file__).parent.parent.parent / "data/shapes/unseen_third.json").read_text(encoding="utf-8"))
REFUSED = {
    "Aria": "model_type",
    "Dream-v0-Instruct-7B": "model_type",
    "Hymba-1.5B-Instruct": "model_type",
    "LLaDA-8B-Instruct": "model_type",
    "Llama-3.1-8B-eetq": "quantization_config.quant_method",
    "Llama-3.1-8B-quanto": "quantization_config.quant_method",
    "MiniCPM-V-2_6": "model_type",
    "MiniCPM4-8B": "sparse_config",
    "Molmo-7B-D-0924": "model_type",
    "NV-Embed-v2": "model_type",
    "OLMo-1B-flash": "intermediate_size",
    "OpenELM-1_1B": "model_type",
    "Ovis2-8B": "model_type",
    "Qwen3-8B-Quark-FP8-kv": "quantization_config.layer_quant_config",
    "Ring-mini-linear-2.0": "model_type",
    "Zamba-7B-v1": "model_type",
    "bart-large-cnn": "is_encoder_decoder",
    "bitnet-b1.58-2B-4T": "quantization_config.quant_method",
    "bridge-bailing_moe2": "num_shared_experts",
    "bridge-deepseek_v3": "qk_nope_head_dim",
    "bridge-deepseek_v4": "first_k_dense_replace",
    "bridge-qwen3_asr": "model_type",
    "codet5p-770m": "is_encoder_decoder",
    "deepseek-vl2-tiny": "model_type",
    "default-apertus1p5": "model_type",
    "default-apertus1p5_text": "model_type",
    "default-axk2": "model_type",
    "default-bailing_hybrid": "model_type",
    "default-beam": "model_type",
    "default-dory": "model_type",
    "default-flint": "model_type",
    "default-granite_docling": "model_type",
    "default-hrm_text": "model_type",
    "default-hy_v4_vl": "model_type",
    "default-inkling2": "model_type",
    "default-inkling2_loop": "model_type",
    "default-inkling2_text": "model_type",
    "default-kolibri1": "model_type",
    "default-lara_mini": "model_type",
    "default-lfm3": "model_type",
    "default-lfm3_vl": "model_type",
    "default-minicpm_ocr": "model_type",
    "default-mistral_large4": "model_type",
    "default-molmo2": "model_type",
    "default-muse_spark": "model_type",
    "default-sarvam_mla": "model_type",
    "default-sarvam_moe": "model_type",
    "default-unlimited_ocr": "model_type",
    "default-zaya": "model_type",
    "dots.ocr": "model_type",
    "glm-4v-9b": "architectures",
    "granite-speech-3.3-8b": "model_type",
    "grok-1": "model_type",
    "jina-embeddings-v4": "model_type",
    "mamba2-2.7b-original": "model_type",
    "mpt-7b": "model_type",
    "snowflake-arctic-instruct": "model_type",
    "step3-text": "model_type",
    "xglm-7.5B": "model_type",
}
"""What is refused, and the key that is named."""
NO_PLAN = sorted(name for name, case in CASES.items() if "refused" in case["expected"])
EXACT = sorted(set(CASES) - set(REFUSED))
UNCOUNTED = {"bridge-qwen3_omni"}
"""What is planned with a tower that is named as not counted."""
MAY = {name for name, case in CASES.items() if case["expected"].get("may_refuse")}


def test_most_are_planned() -> None:
    assert len(EXACT) >= 113
    assert len(set(REFUSED) - set(NO_PLAN) - MAY) <= 12


@pytest.mark.parametrize("name", EXACT)
def test_a_third_set_is_exact(name: str) -> None:
    shape = published_configs.exact(CASES[name])
    assert (shape.vision_parameters is None) == (name in UNCOUNTED)
    assert shape.parameters == pytest.approx(CASES[name]["expected"].get("parameters", shape.parameters), rel=0.01)


@pytest.mark.parametrize("name", [name for name in EXACT if "max_model_len" in CASES[name]["expected"]])
def test_the_longest_context_is_that_of_vllm(name: str) -> None:
    assert published_configs.usual_length(CASES[name]["config"]) == CASES[name]["expected"]["max_model_len"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refusal_of_the_third_set_names_its_key(name: str) -> None:
    refused = read(CASES[name]["config"])
    assert isinstance(refused, NotUnderstood)
    assert refused.key == REFUSED[name]


@pytest.mark.parametrize("name", NO_PLAN)
def test_what_no_engine_serves_is_not_planned(name: str) -> None:
    assert isinstance(read(CASES[name]["config"]), NotUnderstood)


@pytest.mark.parametrize(("name", "key"), [("MiMo-7B-RL", "head_dim"), ("glm-4-9b-chat-1m", "kv_channels")])
def test_a_width_of_heads_that_vllm_does_not_look_at_is_refused(name: str, key: str) -> None:
    refused = read({**CASES[name]["config"], key: 64})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == key


def test_shared_experts_that_the_file_does_not_count_are_refused() -> None:
    config = CASES["Ling-lite-1.5"]["config"]
    two, one = read(config), read({**config, "num_shared_experts": 1})
    assert isinstance(two, ModelShape)
    assert isinstance(one, ModelShape)
    assert two.parameters - one.parameters == 28 * 3 * 2048 * 1408
    refused = read({key: value for key, value in config.items() if key != "num_shared_experts"})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "num_shared_experts"


def test_a_size_that_is_said_twice_is_to_be_the_same() -> None:
    config = CASES["falcon-rw-1b"]["config"]
    assert (config["n_head"], config["num_attention_heads"]) == (32, 32)
    assert isinstance(read(config), ModelShape)
    refused = read({**config, "n_head": 16})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "n_head"


def test_glm_4v_needs_the_class_with_its_tower() -> None:
    config = CASES["glm-4v-9b"]["config"]
    refused, shape = read(config), read({**config, "architectures": ["GLM4VForCausalLM"]})
    assert isinstance(refused, NotUnderstood)
    assert "GLM4VForCausalLM" in refused.why
    assert isinstance(shape, ModelShape)
    assert shape.parameters == pytest.approx(13_906_320_896, rel=0.002)
