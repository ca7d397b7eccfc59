"""140 more public configs, with answers by hand and of vLLM's own classes that were written down before the reader was asked."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from tests.unit.shapes import published_configs

CASES = json.loads((Path(__file__).parent.parent.parent / "data/shapes/unseen_fourth.json").read_text(encoding="utf-8"))
BY_THE_PLAN = {name for name, case in CASES.items() if case["expected"].get("by_the_plan")}
"""What the reader reads and no engine serves: tests/unit/plan/test_unseen_configs.py."""
REFUSED = {name for name, case in CASES.items() if "refused" in case["expected"]} - BY_THE_PLAN
MAY = {name for name, case in CASES.items() if case["expected"].get("may_refuse")}
NOT_READ = {
    "DeciLM-7B": "model_type",
    "DeepSeek-OCR": "model_type",
    "Llama-Guard-4-12B": "text_config.num_experts_per_tok",
    "XVERSE-7B-Chat": "model_type",
    "ettin-decoder-400m": "model_type",
    "ipex-mpt": "model_type",
    "ipt-350m": "model_type",
    "jais-13b": "model_type",
    "jetmoe-8b": "model_type",
    "openPangu-R-72B-2512": "model_type",
    "persimmon-8b-chat": "model_type",
    "phogpt2": "model_type",
    "replit-code-v1_5-3b": "model_type",
    "stablelm-2-1_6b-xsum": "model_type",
    "zen-coder-480b-instruct": "expert_interval",
}
"""What may be planned or refused, is refused, and by which key."""
UNCOUNTED = {"nanoLLaVA-Xenova"}
"""What is read with a tower that is named as not counted."""
EXACT = sorted(set(CASES) - REFUSED - BY_THE_PLAN - set(NOT_READ))


def test_all_that_could_be_planned_are_planned() -> None:
    assert len(CASES) == 140
    assert len(BY_THE_PLAN) == 4
    assert len(EXACT) >= 83
    assert set(NOT_READ) <= MAY


@pytest.mark.parametrize("name", EXACT)
def test_a_fourth_set_is_exact(name: str) -> None:
    shape = published_configs.exact(CASES[name])
    assert (shape.vision_parameters is None) == (name in UNCOUNTED)
    if name not in UNCOUNTED:
        assert shape.parameters == pytest.approx(CASES[name]["expected"].get("parameters", shape.parameters), rel=0.01)


@pytest.mark.parametrize("name", [name for name in EXACT if "max_model_len" in CASES[name]["expected"]])
def test_the_longest_context_is_that_of_vllm(name: str) -> None:
    assert published_configs.usual_length(CASES[name]["config"]) == CASES[name]["expected"]["max_model_len"]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_no_engine_serves_is_refused(name: str) -> None:
    assert isinstance(read(CASES[name]["config"]), NotUnderstood)


@pytest.mark.parametrize("name", sorted(NOT_READ))
def test_a_refusal_of_the_fourth_set_names_its_key(name: str) -> None:
    refused = read(CASES[name]["config"])
    assert isinstance(refused, NotUnderstood)
    assert refused.key == NOT_READ[name]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("galactica-6.7b", "learned_embeddings", False),
        ("K-EXAONE-236B-A23B", "first_last_k_dense_replace", 2),
    ],
)
def test_a_key_that_the_class_does_not_have_is_refused_where_it_says_more(name: str, key: str, value: object) -> None:
    refused = read({**CASES[name]["config"], key: value})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == key


def test_a_flat_file_of_paddleocr_is_read_as_its_nested_one() -> None:
    nested = CASES["PaddleOCR-VL"]["config"]
    text = {key: value for key, value in nested["text_config"].items() if key != "model_type"}
    flat = read({**{key: value for key, value in nested.items() if key != "text_config"}, **text})
    assert isinstance(flat, ModelShape), flat
    assert flat.parameters == pytest.approx(905_601_648, rel=0.002)
    assert flat.kv_bytes_per_token() == 18_432


def test_modelopts_keys_without_a_method_are_refused_by_the_key() -> None:
    config = CASES["Qwen3-32B-FP8-Static-PerTensor"]["config"]
    refused = read(config)
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "quantization_config.quant_method"
    assert "quant_algo FP8" in refused.why
    told = read({**config, "quantization_config": {**config["quantization_config"], "quant_method": "modelopt"}})
    assert isinstance(told, ModelShape)
    assert told.weight_bytes() < 0.55 * 2 * told.parameters
