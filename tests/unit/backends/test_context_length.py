"""The longest context that each engine derives from config.json."""

import pytest

from pytest_longctx.backends.context_length import by_default, derived

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


@pytest.mark.parametrize(
    ("config", "vllm", "sglang"),
    [
        ({"max_position_embeddings": 40_960}, 40_960, 40_960),
        ({"max_position_embeddings": 40_960, "rope_scaling": YARN}, 40_960, 40_960),
        ({"max_position_embeddings": 131_072, "rope_parameters": YARN}, 131_072, 131_072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 8}}, 32_768, 32_768),
        (
            {"max_position_embeddings": 131_072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            131_072,
            131_072,
        ),
        ({"max_position_embeddings": 131_072, "seq_length": 8192}, 8192, 8192),
        ({"model_type": "gemma3", "text_config": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}}, 777, 777),
        ({"text_config": {"max_position_embeddings": 262_144}}, 262_144, 262_144),
        ({"max_position_embeddings": 8, "rope_parameters": {"full_attention": {**YARN, "factor": 2.0}}}, 8, 8),
        ({"max_position_embeddings": 8192, "model_max_length": 131_072}, 131_072, 131_072),
        ({"max_position_embeddings": 131_072, "model_max_length": 4096}, 4096, 4096),
        ({"max_position_embeddings": "many", "rope_scaling": []}, 777, 777),
        ({"max_position_embeddings": 10, "rope_scaling": {"rope_type": [], "factor": None}}, 10, 10),
    ],
)
def test_the_derived_length(config, vllm, sglang):
    assert (derived("vllm", config, 777), derived("sglang", config, 777)) == (vllm, sglang)


@pytest.mark.parametrize("table", ["rope_scaling", "rope_parameters"])
def test_vllm_before_0_30_multiplies_the_original_positions_of_yarn(table):
    config = {"max_position_embeddings": 40_960, table: YARN}
    assert derived("vllm", config, 0, yarn_included=False) == 131_072
    assert derived("sglang", config, 0, yarn_included=False) == 40_960


def test_no_key_is_no_length():
    assert derived("vllm", {}, 0) is None


def test_vllm_starts_a_longrope_with_its_original_length():
    config = {"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096}
    assert by_default("vllm", config, 131_072) == 4096
    assert by_default("vllm", {**config, "rope_scaling": {"type": "su"}}, 131_072) == 4096  # its first name
    assert by_default("sglang", config, 131_072) == 131_072
