"""What is not understood is refused by the name of its key; nothing else ever comes out."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from pytest_longctx.shapes.config_keys import HARMLESS
from pytest_longctx.shapes.reader import FAMILIES

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "models.json").read_text())
LLAMA = MODELS["llama-3.3-70b"]["config"]


def refused(config: object) -> str:
    found = read(config)  # type: ignore[arg-type]
    assert isinstance(found, NotUnderstood), found
    assert found.why
    return found.key


MEANINGFUL = {
    "sliding_window": 4096,
    "kv_lora_rank": 512,
    "num_local_experts": 8,
    "n_routed_experts": 64,
    "use_cla": True,
    "cla_share_factor": 2,
    "num_kv_shared_layers": 4,
    "global_head_dim": 512,
    "num_global_key_value_heads": 4,
    "full_attention_interval": 4,
    "hybrid_override_pattern": "M*",
    "attn_type_list": [0, 1],
    "linear_num_key_heads": 16,
    "state_size": 16,
    "attention_chunk_size": 8192,
    "index_head_dim": 128,
    "compress_ratios": [4, 128],
    "layer_group_size": 4,
    "kv_sharing_map": {"1": 0},
    "v_head_dim": 64,
    "mamba_d_state": 128,
    "conv_L_cache": 3,
    "sliding_window_pattern": 6,
    "cross_attention_layers": [3],
    "block_configs": [{}],
    "num_memory_blocks": 2,
    "swa_num_key_value_heads": 2,
    "attention_compression": 4,
    "shared_kv_cache": True,
    "per_layer_config": {"0": {"head_dim": 1}},
    "qk_latent_dim": 4,
    "add_cross_attention": True,
    "recurrent_block_type": "rg_lru",
}


@pytest.mark.parametrize("key", sorted(MEANINGFUL))
def test_a_key_that_memory_may_depend_on_is_refused_by_name(key: str) -> None:
    assert refused({**LLAMA, key: MEANINGFUL[key]}) == key


HARMLESS_SAMPLE = {
    "rope_theta": 1e6,
    "use_cache": False,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "rms_norm_eps": 1e-5,
    "attention_dropout": 0.1,
    "router_aux_loss_coef": 0.1,
    "hidden_act": "silu",
    "transformers_version": "9",
    "sliding_window": None,
    "num_experts": 0,
    "some_new_scale": 1.5,
    "unsloth_version": "2026",
    "kv_lora_rank": None,
    "mtp_num_layers": 0,
}


@pytest.mark.parametrize("key", sorted(HARMLESS_SAMPLE))
def test_a_harmless_key_changes_nothing(key: str) -> None:
    found = read({**LLAMA, key: HARMLESS_SAMPLE[key]})
    assert isinstance(found, ModelShape), found
    assert found.parameters == MODELS["llama-3.3-70b"]["parameters"]


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "model_type"]
)
def test_a_missing_key_is_named(key: str) -> None:
    assert refused({k: v for k, v in LLAMA.items() if k != key}) == key


@pytest.mark.parametrize(
    "value", [-1, 0, 1.5, "8", True, [8], {"a": 1}, 10**40, math.nan, math.inf], ids=lambda v: str(v)[:10]
)
def test_a_size_that_is_none_is_refused(value: object) -> None:
    assert refused({**LLAMA, "hidden_size": value}) == "hidden_size"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "t5"}, "model_type"),
        ({"model_type": "plamo2"}, "model_type"),
        ({"model_type": ["llama"]}, "model_type"),
        ({**LLAMA, "is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "gemma3", "text_config": 3}, "text_config"),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma9"}}, "model_type"),
        ({**LLAMA, "layer_types": ["full_attention"] * 79}, "layer_types"),
        ({**LLAMA, "layer_types": ["full_attention"] * 79 + ["holographic_attention"]}, "layer_types"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 80}, "sliding_window"),
        ({**LLAMA, "num_key_value_heads": 7}, "num_key_value_heads"),
        ({**LLAMA, "quantization_config": {"quant_method": "hqq"}}, "quantization_config.quant_method"),
        (
            {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "dynamic": {"+:x": {"bits": 8}}}},
            "quantization_config.dynamic",
        ),
        ({**LLAMA, "torch_dtype": "float7"}, "torch_dtype"),
        ({**MODELS["nemotron-h-8b"]["config"], "hybrid_override_pattern": "M-X"}, "hybrid_override_pattern"),
        ({**MODELS["DeepSeek-V4-Flash"]["config"], "compress_ratios": [7] * 44}, "compress_ratios"),
        ({**MODELS["hunyuan-a13b"]["config"], "use_cla": True}, "use_cla"),
        ({**MODELS["phi-2"]["config"], "qk_layernorm": True}, "qk_layernorm"),
        ("not a table", "config.json"),
        (None, "config.json"),
    ],
)
def test_oddities_are_refused_by_name(config: object, key: str) -> None:
    assert refused(config) == key


def test_a_width_that_no_layer_uses_is_harmless() -> None:
    scout = MODELS["Llama-4-Scout-17B-16E-Instruct"]
    inner = scout["config"]["text_config"]
    found, other = (
        read({**inner, "model_type": "llama4_text", "intermediate_size_mlp": width}) for width in (16_384, 128)
    )
    assert isinstance(found, ModelShape), found
    assert isinstance(other, ModelShape), other
    assert found.parameters == other.parameters == scout["counted"]


def test_one_model_more_is_no_other_model() -> None:
    """A multimodal model whose text part is of another family is read as that family."""
    found = read(
        {"model_type": "llava", "text_config": LLAMA, "vision_config": {"model_type": "clip", "hidden_size": 1024}}
    )
    assert isinstance(found, ModelShape)
    assert found.text_parameters == MODELS["llama-3.3-70b"]["counted"]
    assert found.vision_parameters is None  # its blocks are not said


def test_no_harmless_name_is_a_size_that_is_read() -> None:
    sizes = {
        "hidden_size",
        "num_hidden_layers",
        "head_dim",
        "num_key_value_heads",
        "sliding_window",
        "kv_lora_rank",
        "vocab_size",
        "num_experts",
    }
    assert not sizes & HARMLESS


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([10**400, -1, 2**63, "auto"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)
NAMES = sorted(
    {key for m in MODELS.values() for key in m["config"]} | {"text_config", "quantization_config", "vision_config"}
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=12), JUNK, max_size=25)
)
def test_any_config_is_a_shape_or_a_refusal(family: str, config: dict[str, object]) -> None:
    found = read({"model_type": family, **config})
    assert isinstance(found, ModelShape | NotUnderstood)
    _used(found)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(MODELS)), st.data())
def test_a_published_config_with_one_odd_value_is_a_shape_or_a_refusal(name: str, data: st.DataObject) -> None:
    config = dict(MODELS[name]["config"])
    inner = data.draw(st.booleans()) and isinstance(config.get("text_config"), dict)
    table = dict(config["text_config"]) if inner else config
    key = data.draw(st.sampled_from([*sorted(table), "layer_types", "quantization_config"]))
    table[key] = data.draw(JUNK | st.integers(0, 300) | st.lists(st.integers(0, 300), max_size=6))
    if inner:
        config["text_config"] = table
    _used(read(config))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            "fp8",
            "awq",
            "gptq",
            "compressed-tensors",
            "modelopt",
            "quark",
            "bitsandbytes",
            "mxfp4",
            "fbgemm_fp8",
            "auto-round",
        ]
    ),
    st.data(),
)
def test_any_quantisation_is_bytes_or_a_refusal(method: str, data: st.DataObject) -> None:
    keys = [
        "bits",
        "group_size",
        "weight_block_size",
        "ignore",
        "config_groups",
        "quant_algo",
        "quantized_layers",
        "dynamic",
        "zero_point",
        "modules_to_not_convert",
        "global_quant_config",
        "quantization",
        "kv_cache_scheme",
    ]
    table = data.draw(st.dictionaries(st.sampled_from(keys), JUNK, max_size=6))
    _used(read({**MODELS["llama-3.2-1b"]["config"], "quantization_config": {"quant_method": method, **table}}))


def _used(found: ModelShape | NotUnderstood) -> None:
    """Everything that is asked of a shape can be asked of this one."""
    if isinstance(found, NotUnderstood):
        assert found.key
        assert str(found)
        return
    for tensor_parallel in (1, 3, 8):
        assert found.weight_bytes(tensor_parallel) >= 0
        assert found.kv_bytes(70_000, 2, tensor_parallel) >= 0
        assert found.state_bytes(2, None, tensor_parallel) >= 0
    assert found.stage(3).layers <= found.layers
    assert found.parameters > 0
    assert (found.heads, found.kv_heads, found.head_dim, found.window) >= (0, 0, 0, 0)


NEWER = [
    ("GLM-5.3-Flash", "mhc", False),
    ("GLM-5.3-Flash", "index_kpool", 1),
    ("GLM-5.3-Flash", "index_kpool_always_select_tail", False),
    ("GLM-5.3-Flash", "qk_rope_head_dim", 64),
    ("GLM-5.3-Flash", "num_key_value_heads", 8),
    ("GLM-5.3-Flash", "indexer_types", ["shared"] * 45),
    ("GLM-5.3-Flash", "layer_types", ["sliding_attention"] * 45),
    ("HY-4", "gating_type", "headwise"),
    ("HY-4", "enable_ihc", False),
    ("HY-4", "layer_types", ["full_attention"] * 34),
    ("Qwen3.8-Flash-Next", "indexer_kv_heads", 2),
    ("Qwen3.8-Flash-Next", "ple_layer_ids", [4]),
    ("Qwen3.8-Flash-Next", "heads_per_ngram", 7),
    ("Inkling", "local_layer_ids", None),
    ("Inkling", "swa_num_key_value_heads", None),
    ("Inkling", "use_sconv", False),
    ("Inkling", "shared_expert_sink", False),
    ("ERNIE-4.5-VL-28B-A3B", "moe_num_experts", [64, 32]),
    ("ERNIE-4.5-VL-28B-A3B", "moe_layer_start_index", [1, 3]),
    ("ERNIE-4.5-VL-28B-A3B", "moe_intermediate_size", [1536]),
]
"""What the newest families may say and no source here shows."""


@pytest.mark.parametrize(("name", "key", "value"), NEWER)
def test_what_no_source_shows_of_the_newest_is_refused_by_its_key(name: str, key: str, value: object) -> None:
    config = MODELS[name]["config"]
    if "text_config" in config:
        assert refused({**config, "text_config": {**config["text_config"], key: value}}) == f"text_config.{key}"
    else:
        assert refused({**config, key: value}) == key


@pytest.mark.parametrize("name", ["mllama", "zaya"])
def test_a_known_type_that_is_not_modelled_says_why(name: str) -> None:
    flat, nested = read({**LLAMA, "model_type": name}), read({"model_type": name, "text_config": LLAMA})
    for found in (flat, nested):
        assert isinstance(found, NotUnderstood)
        assert found.key == "model_type"
        assert name in found.why
        assert "cache" in found.why
