"""SGLang's pool of tokens and of states, against what boots of 0.5.16 on one H100 logged (random weights)."""

import json
import re
from pathlib import Path

import pytest

from pytest_longctx.backends.sglang import Sglang, memory
from pytest_longctx.deployments.capacity import Prediction
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.shape import of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

DATA = Path(__file__).parents[2] / "data"
BOOTS = Path(__file__).parents[3] / "docs/results/sglang-0.5.16-1xh100/default-fractions/boots"
MODELS = json.loads((DATA / "shapes/models.json").read_text())


def shape_of(config, architecture):
    found = read(config)
    assert isinstance(found, ModelShape), found
    return of(found, architecture)


def config_of(name: str):
    folder = DATA / "sglang" / name / "config.json"
    return json.loads(folder.read_text()) if folder.is_file() else MODELS[name]["config"]


def predicted(shape, length: int, flags, hardware: str = "1xH100", gib: float = 79.1) -> Prediction:
    made = {"name": "d", "title": "t", "backend": "sglang", "hardware": hardware, "version": "==0.5.16"}
    one = Deployment.model_validate({**made, "max_model_len": length, "model": {"name": "m"}, "flags": flags})
    assert not Sglang().unmodelled(one, shape)
    found = Sglang().predict(one, shape, gib * GiB)
    assert found is not None
    return found


LOGGED: dict[str, tuple[str, str, dict[str, object]]] = {
    "l8-default": ("llama31-8b", "LlamaForCausalLM", {}),
    "l8-fp8kv": ("llama31-8b", "LlamaForCausalLM", {"kv-cache-dtype": "fp8_e4m3"}),
    "l8-chunk2048": ("llama31-8b", "LlamaForCausalLM", {"chunked-prefill-size": 2048}),
    "l8-graphs-off": ("llama31-8b", "LlamaForCausalLM", {"disable-cuda-graph": True}),
    "c-qwen25-7b": ("qwen2.5-7b", "Qwen2ForCausalLM", {}),
    "mistral7b-default": ("mistral-7b-v0.1", "MistralForCausalLM", {}),
    "q30b-default": ("qwen3-30b-a3b", "Qwen3MoeForCausalLM", {}),
    "nemotron8b-default": ("nemotron-h-8b", "NemotronHForCausalLM", {}),
    "qwennext12-default": ("qwen3-next-80b", "Qwen3NextForCausalLM", {}),
}


def pool_tokens(found: Prediction, shape, value_bytes: float) -> float:
    """Tokens of the pool; the prediction's longest request is also bounded by the context."""
    sizes = {term.name.partition(" states")[0]: term.size_bytes for term in found.terms}
    states = sum(term.size_bytes for term in found.terms if term.name.endswith(" states"))
    return float((sizes["KV pool"] - states) / shape.model.kv_bytes_per_token(value_bytes, windowed=True))


@pytest.mark.parametrize("boot", LOGGED)
def test_tokens_are_those_that_were_logged(boot):
    name, architecture, flags = LOGGED[boot]
    config = config_of(name)
    if boot.startswith("qwennext12"):
        config = {**config, "num_hidden_layers": 12}
    shape = shape_of(config, architecture)
    text = (BOOTS / f"{boot}.log").read_text(errors="replace")
    logged = int(re.findall(r"KV Cache is allocated.*?#tokens: (\d+)", text)[0])
    found = predicted(shape, 8192, flags)
    tokens = pool_tokens(found, shape, 1 if "kv-cache-dtype" in flags else 2)
    assert tokens == pytest.approx(logged, rel=0.015)


@pytest.mark.parametrize(("boot", "slots"), [("nemotron8b-default", 249), ("qwennext12-default", 713)])
def test_slots_for_states_are_those_that_were_logged(boot, slots):
    name, architecture, _ = LOGGED[boot]
    layers = {"num_hidden_layers": 12} if boot.startswith("qwennext12") else {}
    found = predicted(shape_of({**config_of(name), **layers}, architecture), 8192, {})
    term = next(term for term in found.terms if term.name.endswith(" states"))
    assert int(term.name.split()[0].replace(",", "")) == pytest.approx(slots, rel=0.01)


def test_running_requests_are_bounded_by_states():
    shape = shape_of(config_of("nemotron-h-8b"), "NemotronHForCausalLM")
    boot = memory.Boot(shape, 78.5 * GiB, 8192, 0.83)
    assert boot.states == pytest.approx(249, abs=2)
    assert boot.requests == boot.states // 3


def test_latents_are_whole_on_every_device_and_packed_in_fp8_where_sparse():
    dense, sparse = (
        shape_of(MODELS[name]["config"], "DeepseekV3ForCausalLM") for name in ("DeepSeek-V3", "DeepSeek-V3.2")
    )
    one = memory.Boot(dense, 1e12, 8192, 0.8)
    assert one.token_bytes == memory.Boot(dense, 1e12, 8192, 0.8, tensor_parallel=8).token_bytes == 61 * 576 * 2
    packed = memory.Boot(sparse, 1e12, 8192, 0.8, value_bytes=1, latent_bytes=memory.PACKED_LATENT_BYTES)
    assert packed.token_bytes == 61 * (656 + 132)


def test_every_layer_has_room_for_an_indexer_before_0_5_23():
    """GLM-5.2: 21 of 78 layers run their own."""
    shape = shape_of(MODELS["GLM-5.2"]["config"], "GlmMoeDsaForCausalLM")
    sizes = [memory.Boot(shape, 1e12, 8192, 0.8, indexed_by_all=old).token_bytes for old in (True, False)]
    assert sizes == [78 * (1152 + 132), 78 * 1152 + 21 * 132]


def test_two_head_shapes_and_a_window_pool():
    """MiMo-V2-Flash: 9 full layers of 4 x (192 + 128), 0.8 of their tokens in 39 of 8 x (192 + 128)."""
    shape = shape_of(MODELS["MiMo-V2-Flash"]["config"], "MiMoV2FlashForCausalLM")
    boot = memory.Boot(shape, 1e12, 8192, 0.8, hybrid_pool=True)
    assert boot.token_bytes == pytest.approx((9 * 4 + 0.8 * 39 * 8) * 320 * 2)


H200_BOOTS = Path(__file__).parents[3] / "docs/results/sglang-0.5.16-1xh200/families/boots.jsonl"


@pytest.mark.parametrize(
    ("name", "model", "length", "flags"),
    [
        ("llama-default", "llama31-8b", 131_072, {}),
        ("qwen3-30b-default", "qwen3-30b-a3b", 262_144, {}),
        ("qwen3-30b-fraction-0.95", "qwen3-30b-a3b", 262_144, {"mem-fraction-static": 0.95}),
        ("qwen3-30b-chunk-32768", "qwen3-30b-a3b", 262_144, {"chunked-prefill-size": 32_768}),
    ],
)
def test_the_pool_on_an_h200_is_as_large_as_logged(name, model, length, flags):
    rows = {row["name"]: row for row in map(json.loads, H200_BOOTS.read_text().splitlines())}
    config = config_of(model)
    found = predicted(shape_of(config, config["architectures"][0]), length, flags, "1xH200", 139.8)
    pool = next(term.size_bytes for term in found.terms if term.name == "KV pool")
    config_bytes = shape_of(config, config["architectures"][0]).kv_bytes_per_token(2)
    assert pool / config_bytes == pytest.approx(rows[name]["tokens"], rel=0.002)


def test_a_pool_has_no_more_tokens_than_asked():
    config = config_of("llama31-8b")
    shape = shape_of(config, config["architectures"][0])
    capped = predicted(shape, 131_072, {"max-total-tokens": 65_536})
    pool = next(term.size_bytes for term in capped.terms if term.name == "KV pool")
    assert pool == 65_536 * shape.kv_bytes_per_token(2)
    assert capped.longest_tokens == 65_529
    beyond = predicted(shape, 131_072, {"max-total-tokens": 10**9})
    assert beyond == predicted(shape, 131_072, {})
