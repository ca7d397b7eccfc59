"""Bytes of quantised weights, by hand."""

import json
from pathlib import Path

import pytest

from pytest_longctx.shapes import ModelShape, NotUnderstood, read
from tests.unit.factories import LLAMA_8B

MODELS = json.loads((Path(__file__).parent.parent.parent / "data/shapes" / "models.json").read_text())

TABLES = 2 * 128256 * 4096 * 2 + 65 * 4096 * 2
MATRICES = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
ROWS = 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)


def size(config: dict[str, object], quantised: dict[str, object] | None, tensor_parallel: int = 1) -> int:
    found = read({**config, "quantization_config": quantised})
    assert isinstance(found, ModelShape), found
    return found.weight_bytes(tensor_parallel)


def group(bits: int, kind: str, **more: object) -> dict[str, object]:
    weights = {"num_bits": bits, "type": kind, **more}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


@pytest.mark.parametrize(
    ("quantised", "bytes_of_matrices"),
    [
        ({"quant_method": "fp8"}, MATRICES + 32 * 7 * 4),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, MATRICES * (1 + 4 / 128**2)),
        ({"quant_method": "fbgemm_fp8"}, MATRICES + ROWS * 4),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, MATRICES * (0.5 + 2.5 / 128)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, MATRICES * (0.5 + 2.5 / 128)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, MATRICES * (0.5 + 4 / 64)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, MATRICES + ROWS * 4),
        (group(8, "float", strategy="channel"), MATRICES + ROWS * 2),
        (group(8, "int", strategy="channel"), MATRICES + ROWS * 2),
        (group(4, "int", strategy="group", group_size=128), MATRICES * (0.5 + 2 / 128)),
        (group(4, "float", strategy="tensor_group", group_size=16), MATRICES * (0.5 + 1 / 16)),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]},
            MATRICES * (0.5 + 1 / 16),
        ),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, MATRICES + 32 * 7 * 4),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}, "exclude": ["lm_head"]},
            MATRICES + 32 * 7 * 4,
        ),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
)
def test_matrices_are_coded_and_tables_are_not(quantised: dict[str, object], bytes_of_matrices: float) -> None:
    assert size(LLAMA_8B, quantised) == pytest.approx(TABLES + bytes_of_matrices, rel=1e-4)


def test_modules_that_are_named_stay_as_they_were() -> None:
    own = 32 * 3 * 4096 * 14336
    for names in (
        ["model.layers.*.mlp"],
        ["*.mlp.*"],
        ["*mlp*"],
        ["re:.*mlp.*"],
        [f"model.layers.{i}.mlp" for i in range(32)],
        ["mlp"],
    ):
        expected = TABLES + (MATRICES - own) + own * 2
        assert size(LLAMA_8B, {"quant_method": "fp8", "modules_to_not_convert": names}) == pytest.approx(
            expected, rel=1e-4
        ), names


def test_one_layer_that_is_named_is_one_layer() -> None:
    one = 3 * 4096 * 14336
    all_of_it = size(LLAMA_8B, {"quant_method": "fp8"})
    kept = size(LLAMA_8B, {"quant_method": "fp8", "ignored_layers": ["model.layers.1.mlp"]})
    assert kept - all_of_it == pytest.approx(one, rel=1e-4)  # and not also layers 10 to 19


def test_only_experts_are_mxfp4() -> None:
    found = read({**MODELS["gpt-oss-120b"]["config"], "quantization_config": {"quant_method": "mxfp4"}})
    assert isinstance(found, ModelShape)
    assert found.weight_bytes() / 2**30 == pytest.approx(60.8, abs=0.1)  # the checkpoint is 65.2e9 bytes


def test_published_sizes() -> None:
    """Bytes of the safetensors files, to a percent."""
    v3 = size(MODELS["DeepSeek-V3"]["config"], {"quant_method": "fp8", "weight_block_size": [128, 128]})
    assert v3 / 1e9 == pytest.approx(674.6, rel=0.01)  # 688.6e9 with the layer of multi-token prediction


def test_a_mixed_checkpoint_is_read_module_by_module() -> None:
    layers = {
        f"model.layers.{i}.mlp.{name}_proj": {"quant_algo": "NVFP4"}
        for i in range(32)
        for name in ("gate", "up", "down")
    }
    layers |= {f"model.layers.{i}.self_attn.{name}_proj": {"quant_algo": "FP8"} for i in range(32) for name in "qkvo"}
    mixed = size(LLAMA_8B, {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers})
    wide = 32 * 3 * 4096 * 14336
    assert mixed == pytest.approx(TABLES + wide * 0.5625 + (MATRICES - wide), rel=1e-4)


def test_the_share_of_a_device() -> None:
    whole, part = size(LLAMA_8B, {"quant_method": "fp8"}), size(LLAMA_8B, {"quant_method": "fp8"}, 8)
    assert part == pytest.approx(whole / 8, rel=0.001)


def test_the_older_file_of_modelopt_counts_where_the_config_is_silent() -> None:
    beside = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
    }
    found, plain = read(LLAMA_8B, beside), read(LLAMA_8B)
    assert isinstance(found, ModelShape)
    assert isinstance(plain, ModelShape)
    assert found.weight_bytes() == size(LLAMA_8B, {"quant_method": "modelopt", **beside})
    assert found.scheme.kv_dtype == "fp8"
    assert found.weight_bytes() < 0.6 * plain.weight_bytes()


@pytest.mark.parametrize(
    ("quantised", "key"),
    [
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_int"}, "data_type"),
        ({"quant_method": "auto-round", "bits": 2, "data_type": "mx_fp"}, "data_type"),
        (
            {"quant_method": "auto-round", "bits": 4, "extra_config": {"model.layers.0.mlp": {"bits": 8}}},
            "extra_config",
        ),
        (
            {
                "quant_method": "auto-round",
                "bits": 4,
                "group_size": 128,
                "extra_config": {"model.layers.0.mlp": {"bits": 4, "group_size": 32}},
            },
            "extra_config",
        ),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*down_proj.*": {"bits": 8}}}, "dynamic"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"lm_head": {"bits": 8}}}, "dynamic"),
        ({"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": 7}, "modules_in_block_to_quantize"),
        ({"quant_method": "gptq", "bits": 4, "modules_in_block_to_quantize": [[7]]}, "modules_in_block_to_quantize"),
    ],
)
def test_bits_of_some_modules_that_are_not_modelled_are_refused(quantised: dict[str, object], key: str) -> None:
    found = read({**LLAMA_8B, "quantization_config": quantised})
    assert isinstance(found, NotUnderstood)
    assert found.key == f"quantization_config.{key}"


@pytest.mark.parametrize("own", [{"bits": 16}, {"bits": 16, "data_type": "float"}, {"bits": 32}])
@pytest.mark.parametrize("name", ["model.layers.0.mlp", r"model\.layers\.0\.mlp.*"])
def test_modules_that_autoround_leaves_stay_as_they_were(own: dict[str, object], name: str) -> None:
    plain = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
    packed, left = size(LLAMA_8B, plain), size(LLAMA_8B, {**plain, "extra_config": {name: own}})
    assert left - packed == pytest.approx(3 * 4096 * 14336 * (2 - 0.5 - 2.5 / 128))


TABLE = 320_001_536 * 160
"""Numbers in the n-grams of Qwen4."""


@pytest.mark.parametrize(
    ("quantised", "bytes_of_table"),
    [
        ({"quant_method": "fp8"}, TABLE),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.1.ple.ple_embedding"]}, 2 * TABLE),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, 2 * TABLE),
        ({"quant_method": "awq", "bits": 4}, 2 * TABLE),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
            },
            2 * TABLE,
        ),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
)
def test_a_table_of_n_grams_is_packed_by_fp8_alone(quantised: dict[str, object], bytes_of_table: int) -> None:
    # so vLLM 0.32 chooses the method of Qwen4's embedding
    config = MODELS["Qwen3.8-Flash-Next"]["config"]
    without = {**config, "text_config": {**config["text_config"], "ple_layer_ids": []}}
    more = size(config, quantised) - size(without, quantised)
    assert more == pytest.approx(bytes_of_table, rel=0.002)


def test_what_mixes_streams_is_never_packed() -> None:
    config = MODELS["HY-4"]["config"]
    assert size({**config, "hc_mult": 8}, {"quant_method": "fp8"}) - size(
        config, {"quant_method": "fp8"}
    ) == pytest.approx(size({**config, "hc_mult": 8}, None) - size(config, None))


@pytest.mark.parametrize("producer", [None, {"name": "someone"}, {}])
def test_a_table_that_vllm_takes_for_no_quantisation_is_refused(producer: object) -> None:
    table = {"producer": producer, "quantization": {"quant_algo": "FP8"}}
    refused = read({**LLAMA_8B, "quantization_config": table})
    assert isinstance(refused, NotUnderstood)
    assert refused.key == "quantization_config.quant_method"
    told = size(LLAMA_8B, {**table, "producer": {"name": "modelopt"}})
    assert told == size(LLAMA_8B, {**table, "quant_method": "modelopt"})
