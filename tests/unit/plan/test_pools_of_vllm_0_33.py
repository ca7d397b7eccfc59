"""The pools that vLLM 0.33 logged on one H200 (``docs/results/vllm-0.33.0-1xh200/families``), and the plan of the same commands."""

import json
from pathlib import Path

import pytest

from pytest_longctx.plan import typed
from pytest_longctx.plan.planned_server import Given
from tests.unit.factories import LLAMA_8B

MODELS = json.loads((Path(__file__).parents[2] / "data/shapes" / "models.json").read_text())
LAYERS = {"qwen3-next-80b": 12, "deepseek-v3": 5}
"""What was booted had fewer layers of these, and no quantised weights."""


def config_of(model: str) -> dict[str, object]:
    if model == "llama-3.1-8b":
        return LLAMA_8B
    config = {"torch_dtype": "bfloat16", **MODELS[model]["config"]}
    if model in LAYERS:
        config |= {"num_hidden_layers": LAYERS[model], "num_nextn_predict_layers": 0}
        config.pop("quantization_config", None)
    return config


@pytest.mark.parametrize(
    ("model", "flags", "kv_gib"),
    [
        ("llama-3.1-8b", "", 112.12),
        ("llama-3.1-8b", "--kv-cache-dtype fp8_e4m3", 112.12),
        ("qwen3-30b-a3b", "--max-num-batched-tokens 8192", 69.48),
        ("nemotron-h-8b", "", 111.85),
        ("deepseek-v3", "", 71.73),
        ("qwen3-next-80b", "", 88.27),
        ("mistral-7b-v0.1", "--gpu-memory-utilization 0.5", 55.33),
    ],
)
def test_the_pool_is_the_logged_one(model, flags, kv_gib, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of(model)))
    start = ["vllm", "serve", str(tmp_path), "--load-format", "dummy", "--enforce-eager", *flags.split()]
    options = typed.Options("1xH200", 128, Given(tmp_path, "0.33.0"))
    (found,) = typed.answers(typed.read(start, options))
    assert found.boot.prediction is not None
    (pool,) = (term for term in found.boot.prediction.terms if term.name == "KV pool")
    assert pool.size_bytes / 2**30 == pytest.approx(kv_gib, rel=0.005)
