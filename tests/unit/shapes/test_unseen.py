"""Public configs that the reader had not seen, beside the answers of an oracle that were written down first."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from tests.unit.factories import LLAMA_8B

DATA = Path(__file__).parent.parent.parent / "data/shapes"
FIRST, AGAIN = (json.loads((DATA / name).read_text()) for name in ("unseen.json", "unseen_again.json"))
UNSEEN = {**FIRST, **AGAIN}
QUANTISED = json.loads((DATA / "unseen_quantised.json").read_text())
WEIGHED = {name: case for name, case in {**AGAIN, **QUANTISED}.items() if "weight_bytes" in case["expected"]}
NO_WEIGHTS = {
    "Qwen3-8B-targets-of-a-class": "config_groups",
    "Qwen3-8B-torchao": "quant_method",
    "Qwen3-8B-hqq": "quant_method",
    "Llama-2-7b-AQLM-2Bit": "quant_method",
    "Qwen3-8B-sparse24": "sparsity_config",
}
"""Quantised files that are refused, and the key."""
FIGURES = sorted(name for name, case in UNSEEN.items() if "parameters" in case["expected"])
REFUSED = sorted(name for name, case in UNSEEN.items() if "refused" in case["expected"])

NOT_YET = {
    # Files of another engine with its own keys beside those of the model.
    "Llama-3.2-3B-mllm": "linear_impl_type",
    "Qwen2.5-1.5B-mllm": "linear_impl_type",
    "Qwen2.5-3B-mllm": "linear_impl_type",
    "Qwen3-1.7B-mllm": "linear_block_size",
    # The expected answer of these allows a refusal too.
    "fla-mamba_1B": "fuse_cross_entropy",
    "toy-deepseek_v4": "qk_rope_head_dim",
    "embeddinggemma-300m": "use_bidirectional_attention",
    "gte-Qwen2-7B-instruct": "is_causal",
    "internlm-7b": "model_type",
    "llama-embed-nemotron-8b": "model_type",
    "llama-nemotron-bidirectional-plain": "architectures",
}
"""What is refused by its key, though an engine could serve it."""

UNCOUNTED = {"gemma-3n-E2B-it", "Qwen-VL-Chat"}
"""What is planned with towers that are named as not counted."""


def test_most_are_planned() -> None:
    assert len(FIGURES) - len(NOT_YET) >= 43 + 37
    assert not set(FIRST) & set(AGAIN)


@pytest.mark.parametrize("name", sorted(set(FIGURES) - set(NOT_YET)))
def test_what_was_not_seen_is_exact(name: str) -> None:
    case = UNSEEN[name]
    shape = read(case["config"])
    assert isinstance(shape, ModelShape), shape
    assert (shape.vision_parameters is None) == (name in UNCOUNTED)
    if name not in UNCOUNTED:
        assert shape.parameters == pytest.approx(case["expected"]["parameters"], rel=0.01)
    assert shape.kv_bytes_per_token() == case["expected"]["kv_bytes_per_token"]
    assert shape.state_bytes() == case["expected"].get("state_bytes", 0)


@pytest.mark.parametrize("name", sorted(set(WEIGHED) - set(NO_WEIGHTS)))
def test_quantised_weights_take_what_their_layers_do(name: str) -> None:
    shape = read(WEIGHED[name]["config"])
    assert isinstance(shape, ModelShape), shape
    assert shape.weight_bytes() == pytest.approx(WEIGHED[name]["expected"]["weight_bytes"], rel=0.005)


@pytest.mark.parametrize("name", sorted(NO_WEIGHTS))
def test_a_quantisation_that_is_not_modelled_names_its_key(name: str) -> None:
    refused = read(QUANTISED[name]["config"])
    assert isinstance(refused, NotUnderstood)
    assert refused.key == f"quantization_config.{NO_WEIGHTS[name]}"


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_is_not_understood_names_its_key(name: str) -> None:
    refused = read(UNSEEN[name]["config"])
    assert isinstance(refused, NotUnderstood)
    assert refused.key == NOT_YET[name]


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_engine_serves_is_refused(name: str) -> None:
    assert isinstance(read(UNSEEN[name]["config"]), NotUnderstood)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "LlamaForCausalLMEagle3",
            "DFlashDraftModel",
            "PEagleDraftModel",
            "EagleLlamaForCausalLM",
            "MixtralForCausalLM",
        ),
        *("DeepseekV3ForCausalLMNextN", "LlamaBidirectionalModel", "LlamaBidirectionalForSequenceClassification"),
    ],
)
def test_a_class_of_another_model_is_refused_by_name(name: str) -> None:
    refused = read({**LLAMA_8B, "architectures": [name]})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "architectures"
    assert name in refused.why


@pytest.mark.parametrize("name", ["LlamaForSequenceClassification", "LlamaModel", "LlamaForRewardModel"])
def test_a_classifier_has_no_output_table(name: str) -> None:
    whole, headless = (
        read({**LLAMA_8B, "architectures": ["LlamaForCausalLM"]}),
        read({**LLAMA_8B, "architectures": [name]}),
    )
    assert isinstance(whole, ModelShape)
    assert isinstance(headless, ModelShape)
    assert whole.parameters - headless.parameters == 128256 * 4096
    assert whole.kv_bytes_per_token() == headless.kv_bytes_per_token()


@pytest.mark.parametrize("names", [None, [], "LlamaForCausalLM", [7], ["LlamaForCausalLM"], ["SomethingOfMyOwn"]])
def test_other_names_of_classes_change_nothing(names: object) -> None:
    shape = read({**LLAMA_8B, "architectures": names})
    assert isinstance(shape, ModelShape)
    assert shape.parameters == 8_030_261_248


def test_of_an_omni_model_the_thinker_is_read() -> None:
    # tables of 544,997,376 twice, layers of 466,115,584, a norm; the talker and the part that makes sound are not loaded
    shape = read(UNSEEN["toy-qwen25omni"]["config"])
    assert isinstance(shape, ModelShape)
    assert shape.text_parameters == 2 * 544_997_376 + 466_115_584 + 3_584


def test_an_audio_tower_that_is_not_known_is_said() -> None:
    whole = UNSEEN["Voxtral-Mini-3B-2507"]["config"]
    shape = read({**whole, "audio_config": {**whole["audio_config"], "model_type": "an_encoder_of_my_own"}})
    assert isinstance(shape, ModelShape)
    assert shape.vision_parameters is None
    assert "audio_config is not counted" in shape.notes


def test_dense_layers_at_the_start_are_those_of_the_class_where_nothing_says_them() -> None:
    config = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "models.json").read_text())
    base = config["DeepSeek-V3"]["config"]
    left_out = {key: value for key, value in base.items() if key != "first_k_dense_replace"}
    told, untold = read(base), read(left_out)
    assert isinstance(told, ModelShape)
    assert isinstance(untold, ModelShape)
    assert told.parameters == untold.parameters == 671_026_404_352


@pytest.mark.parametrize(
    ("bits", "group", "published_gb"),
    [(4, 128, 7.26), (4, 64, 7.51), (4, 32, 8.00), (8, 128, 13.65), (8, 64, 13.95), (8, -1, 13.36)],
)
def test_gptq_takes_what_its_publisher_lists(bits: int, group: int, published_gb: float) -> None:
    config = UNSEEN["Llama-2-13B-chat-GPTQ"]["config"]
    shape = read(
        {**config, "quantization_config": {**config["quantization_config"], "bits": bits, "group_size": group}}
    )
    assert isinstance(shape, ModelShape)
    assert shape.weight_bytes() / 1e9 == pytest.approx(published_gb, rel=0.003)


def test_experts_of_four_bits_take_what_is_published() -> None:
    shape = read(UNSEEN["Kimi-K2.6"]["config"])
    assert isinstance(shape, ModelShape)
    assert shape.weight_bytes() / 1e9 == pytest.approx(595, rel=0.005)


@pytest.mark.parametrize(
    "name",
    [
        *("EXAONE-4.5-33B", "LFM2.5-VL-1.6B", "Qwen3.5-9B", "Voxtral-Mini-3B-2507", "gemma-3-27b-vision", "pixtral-4L"),
        *(
            "qwen2-vl-4L",
            "qwen3-vl-4L",
            "toy-qwen25omni",
            "toy-qwen3omni",
            "toy-qwen3vlmoe",
            "Devstral-Small-2-24B-Instruct",
            "aya-vision-8b",
            "InternVL3-8B",
            "Kimi-VL-A3B-Instruct",
            "Phi-3.5-vision-instruct",
            "Qwen2-Audio-7B-Instruct",
            "SmolVLM2-2.2B-Instruct",
            "granite-vision-3.3-2b",
            "llava-1.5-7b-hf",
            "paligemma2-3b-pt-224",
        ),
    ],
)
def test_towers_and_what_projects_them_are_counted_to_two_thousandths(name: str) -> None:
    shape = read(UNSEEN[name]["config"])
    assert isinstance(shape, ModelShape)
    assert shape.parameters == pytest.approx(UNSEEN[name]["expected"]["parameters"], rel=0.002)


def test_a_model_that_reads_both_ways_is_refused() -> None:
    # vLLM builds its layers as encoders, which have no cache
    refused = read({**LLAMA_8B, "is_causal": False})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "is_causal"
    assert isinstance(read({**LLAMA_8B, "is_causal": True}), ModelShape)


@pytest.mark.parametrize(("key", "value"), [("is_causal", False), ("architectures", ["LlamaBidirectionalModel"])])
def test_a_text_part_that_reads_both_ways_is_refused(key: str, value: object) -> None:
    config = UNSEEN["SmolVLM2-2.2B-Instruct"]["config"]
    refused = read({**config, "text_config": {**config["text_config"], key: value}})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == f"text_config.{key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("visual", {"layers": 48, "width": 1664}),
        ("vision_cfg", {"width": 1024}),
        ("speech_config", {"d_model": 1280}),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336"),
    ],
)
def test_a_tower_in_another_spelling_is_said(key: str, value: object) -> None:
    shape = read({**LLAMA_8B, key: value})
    assert isinstance(shape, ModelShape)
    assert shape.vision_parameters is None
    assert f"{key} is not counted" in shape.notes


@pytest.mark.parametrize("key", ["visual", "img_processor", "vision_feature_select_strategy", "image_grid"])
def test_a_key_that_describes_no_tower_says_nothing(key: str) -> None:
    shape = read({**LLAMA_8B, key: {} if key == "visual" else None if key == "img_processor" else "default"})
    assert isinstance(shape, ModelShape)
    assert shape.vision_parameters == 0
    assert not shape.notes


def test_a_wrapper_that_describes_no_tower_has_one_all_the_same() -> None:
    config = {key: value for key, value in UNSEEN["SmolVLM2-2.2B-Instruct"]["config"].items() if key != "vision_config"}
    shape = read(config)
    assert isinstance(shape, ModelShape)
    assert shape.vision_parameters is None


def test_what_a_part_leaves_out_is_as_in_its_class() -> None:
    # the publisher's text_config of LLaVA 1.5 has no hidden_size; the same keys alone are an excerpt
    text = UNSEEN["llava-1.5-7b-hf"]["config"]["text_config"]
    assert "hidden_size" not in text
    assert isinstance(read(UNSEEN["llava-1.5-7b-hf"]["config"]), ModelShape)
    refused = read(text)
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "hidden_size"


@pytest.mark.parametrize(
    ("name", "kind"), [("qwythos-9b-math-lora", "an adapter"), ("medusa-vicuna-7b-v1.3", "a part")]
)
def test_what_is_loaded_beside_a_model_names_it(name: str, kind: str) -> None:
    refused = read(UNSEEN[name]["config"])
    assert isinstance(refused, NotUnderstood)
    assert kind in refused.why
    assert UNSEEN[name]["config"]["base_model_name_or_path"] in refused.why


@pytest.mark.parametrize("name", ["MiMo-V2-Flash", "kimi-linear-48b", "Step-3.7-Flash"])
def test_dense_layers_that_no_key_says_are_not_guessed(name: str) -> None:
    config = json.loads((DATA / "models.json").read_text())[name]["config"]
    said = ("first_k_dense_replace", "moe_layer_freq", "mlp_layer_types", "moe_layers_enum", "num_dense_layers")
    text = {key: value for key, value in config.get("text_config", config).items() if key not in said}
    refused = read({**config, "text_config": text} if "text_config" in config else text)
    assert isinstance(refused, NotUnderstood)
    assert refused.key.endswith("first_k_dense_replace")


CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
GLM4V = {
    "model_type": "glm4v_vision",
    "depth": 24,
    "hidden_size": 1536,
    "num_heads": 12,
    "image_size": 336,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 4096,
    "intermediate_size": 13696,
}


@pytest.mark.parametrize(
    ("outer", "text", "tower", "parameters", "token_bytes"),
    [
        ("llava_next_video", "llama", CLIP, 7_062_906_880, 32 * 2 * 32 * 128 * 2),
        ("glm46v", "glm4v_text", GLM4V, 10_292_777_472, 40 * 2 * 2 * 128 * 2),
    ],
)
def test_a_wrapper_of_nothing_but_its_class_is_its_class(
    outer: str, text: str, tower: dict[str, object], parameters: int, token_bytes: int
) -> None:
    # the classes of transformers 5.19 without any key, on the meta device
    config = {"model_type": outer, "tie_word_embeddings": False, "text_config": {"model_type": text}}
    shape = read({**config, "vision_config": tower})
    assert isinstance(shape, ModelShape), shape
    assert shape.parameters == pytest.approx(parameters, rel=0.003)
    assert shape.kv_bytes_per_token() == token_bytes
