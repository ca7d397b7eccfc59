"""Plans of models whose config.json was read: a prediction, or the reason why there is none, and never another row's end."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_longctx.backends import Backend
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm, memory
from pytest_longctx.backends.vllm import settings as vllm_settings
from pytest_longctx.deployments import models
from pytest_longctx.deployments.deployment import Deployment, Model
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.deployments.shape import of
from pytest_longctx.plan import runs
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB

MODELS = json.loads((Path(__file__).parent.parent / "data/shapes/models.json").read_text())
GPT_OSS_BF16 = {k: v for k, v in MODELS["gpt-oss-120b"]["config"].items() if k != "quantization_config"}


@pytest.fixture
def planned(tmp_path):
    def row(config: object, backend: Backend, hardware: str = "8xH200", **given: object) -> runs.Row:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text, encoding="utf-8")
        model = {"name": "m", "path": str(folder), "weight_bits": given.pop("weight_bits", 16)}
        one = {"name": "d", "title": "t", "backend": backend.name, "hardware": hardware, "max_model_len": 32_768}
        asked = Deployment.model_validate({**one, **given, "model": model})
        return runs._row(asked, (), backend, Machine(hardware=Hardware.parse(hardware)))

    return row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "this shape is not understood: config.json: not valid JSON (JSONDecodeError"),
        ("[" * 100_000, "this shape is not understood: config.json: not valid JSON (RecursionError"),
        ("[]", "this shape is not understood: config.json: must be a table"),
        ("{}", "this shape is not understood: model_type"),
        ('{"model_type": "never-seen"}', "this shape is not understood: model_type: unknown model type"),
    ],
)
def test_a_file_that_is_not_understood_is_one_row(planned, text, said):
    row = planned(text, Vllm())
    assert row.prediction is None
    assert row.verdict.startswith(said)
    assert "\n" not in row.verdict


def test_a_file_of_bytes_is_one_row(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    found = models.read_shape(Model(name="m", path=str(tmp_path)))
    assert str(found).startswith("this shape is not understood: config.json: not valid JSON (UnicodeDecodeError")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(sorted(MODELS["qwen3-30b-a3b"]["config"])),
    value=st.none()
    | st.booleans()
    | st.integers(-3, 10**6)
    | st.floats()
    | st.text(max_size=5)
    | st.just([])
    | st.just({}),
)
def test_any_value_of_any_key_is_a_row(planned, key, value):
    row = planned({**MODELS["qwen3-30b-a3b"]["config"], key: value}, Vllm())
    assert (row.prediction is None) == bool(row.unpredicted)


@pytest.mark.parametrize(
    ("name", "backend", "why", "bytes_per_token"),
    [
        ("DeepSeek-V4-Flash", Vllm(), "a state of kind compressor", "0"),
        ("MiniMax-M3", Vllm(), "an indexer beside keys and values", "137,472"),
        ("minicpm3-4b", Vllm(), "kv_lora_rank of minicpm3: vLLM has no latent cache for it", "35,712"),
        ("rwkv-4-7b", Vllm(), "a state of kind rwkv", "0"),
        ("jamba-1.5-mini", Sglang(), "a state of another kind than mamba2 and gated_delta", "16,384"),
        ("lfm2-1.2b", Sglang(), "a state of another kind than mamba2 and gated_delta", "12,288"),
    ],
)
def test_a_layout_that_is_not_known_is_refused_by_name(planned, backend, name, why, bytes_per_token):
    row = planned(MODELS[name]["config"], backend)
    assert row.prediction is None
    assert f"the memory of {backend.name} " in row.verdict
    assert why in row.verdict
    assert "bytes of BF16 KV cache a token" in row.sizes
    assert bytes_per_token == "0" or f"{bytes_per_token} bytes of BF16 KV cache a token" in row.sizes


@pytest.mark.parametrize("backend", [Vllm(), Sglang()], ids=["vllm", "sglang"])
@pytest.mark.parametrize(("name", "devices"), [("DeepSeek-V3", 16), ("qwen3-next-80b", 2), ("nemotron-h-8b", 1)])
def test_latents_and_states_are_predicted(planned, backend, name, devices):
    asked = {"max_model_len": 8192, "flags": {FLAG[backend.name]: devices}}
    row = planned(MODELS[name]["config"], backend, f"{devices}xH200", **asked)
    assert row.prediction is not None
    assert row.prediction.outcome == "serves"


FLAG = {"vllm": "tensor-parallel-size", "sglang": "tp"}


def test_a_latent_is_not_divided(planned):
    """61 layers of 576 values: 10.7 GiB of 163,840 tokens, on each of 8 devices as on 16 (plans/24 of the issue)."""
    found = [
        planned(
            MODELS["DeepSeek-V3"]["config"],
            Vllm(),
            f"{n}xB200",
            max_model_len=163_840,
            flags={"tensor-parallel-size": n},
        )
        for n in (8, 16)
    ]
    sizes = [
        term.size_bytes / GiB
        for row in found
        for term in row.prediction.terms
        if term.name == "KV cache of one request"
    ]
    assert sizes == pytest.approx([10.72, 10.72], abs=0.005)


def test_gated_delta_net_comes_out_as_a_public_log(planned):
    """Qwen3.6-27B, FP8 cache, TP 2, 4.99 GiB a device: blocks of 1,568 tokens, 2.311 requests of 131,072 (plans/26)."""
    config = MODELS["Qwen3.6-27B"]["config"]
    model = read(config)
    assert isinstance(model, ModelShape)
    shape = of(model)
    made = Deployment.model_validate(
        {
            "name": "d",
            "title": "t",
            "backend": "vllm",
            "hardware": "2xL40S",
            "version": "==0.31.0",
            "max_model_len": 131_072,
            "model": {"name": "m"},
            "flags": {"tensor-parallel-size": 2, "kv-cache-dtype": "fp8"},
        }
    )
    layout = vllm_settings.layout(made, shape, hybrid=True, ratio=1.5)
    pool = memory.Pool(shape, 4.99 * GiB, layout=layout)
    assert pool.grouping.block_tokens == 1568
    assert pool.concurrency(131_072) == pytest.approx(2.311, abs=0.002)


def test_more_requests_than_states_are_refused(planned):
    """vllm-project/recipes#551: 1,024 requests and 856 to 969 blocks on one card of 80 to 96 GB."""
    config = MODELS["qwen3-next-80b"]["config"]
    quantised = config | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    one = {"version": ">=0.26", "flags": {"tensor-parallel-size": 1}}
    refused = planned(quantised, Vllm(), "1xH100-NVL", **one).prediction
    assert refused.outcome == "refuses"
    assert refused.culprit.name.startswith("max_num_seqs (1,024) exceeds available Mamba cache blocks")
    few = int(refused.cure.removeprefix("--max-num-seqs "))
    cured = planned(quantised, Vllm(), "1xH100-NVL", version=">=0.26", flags={"max-num-seqs": few}).prediction
    assert cured.outcome == "serves"


GPT_OSS_MXFP4 = MODELS["gpt-oss-120b"]["config"] | {
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }
}


def test_gpt_oss_on_an_h100_is_refused_with_its_sizes(planned):
    """vllm-project/vllm#27508 (0.11): 4.54 GiB for 131,072 tokens, 1.71 GiB left; 100,000 with defaults serve (#23278)."""
    flags = {"gpu-memory-utilization": 0.95, "max-num-batched-tokens": 1024}
    found = planned(GPT_OSS_MXFP4, Vllm(), "1xH100", version="==0.11.0", max_model_len=131_072, flags=flags).prediction
    sizes = {term.name: term.size_bytes / GiB for term in found.terms}
    assert found.outcome == "refuses"
    assert sizes["KV cache of one request"] == pytest.approx(4.54, abs=0.005)
    assert sizes["KV pool"] == pytest.approx(1.71, abs=0.25)


@pytest.mark.parametrize("hardware", ["1xH100", "1xA100", "1xL40S"])
def test_a_small_model_serves_on_a_small_card_at_the_default_share(planned, hardware):
    row = planned(MODELS["granite-3.3-8b"]["config"], Vllm(), hardware, version=">=0.25", flags={"max-num-seqs": 8})
    assert row.prediction.outcome == "serves", row.verdict
    assert not row.prediction.doubt


def test_a_plain_family_is_predicted_with_its_own_weights(planned):
    row = planned(MODELS["qwen3-30b-a3b"]["config"], Vllm(), "1xH200")
    assert row.prediction is not None
    weights = next(term for term in row.prediction.terms if term.name == "weights")
    assert weights.size_bytes / GiB == pytest.approx(56.93, abs=0.005)  # 56.87 and the rotary table of 0.06


def test_weights_are_quantised_as_the_config_says_whatever_the_deployment_says(planned):
    config = MODELS["gpt-oss-120b"]["config"] | {
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
        }
    }
    four, plain = (planned(each, Vllm(), "1xH200", weight_bits=16).prediction for each in (config, GPT_OSS_BF16))
    assert four.terms[0].size_bytes < plain.terms[0].size_bytes / 3


def test_gemma_3_keeps_its_windows_in_vllm_and_everything_in_sglang(planned):
    config = MODELS["gemma-3-27b"]["config"]
    flags = {"mem-fraction-static": 0.9}
    vllm = planned(config, Vllm(), "1xH200", max_model_len=131_072).prediction
    one_request = next(term for term in vllm.terms if term.name == "KV cache of one request")
    assert one_request.size_bytes / GiB == pytest.approx(14.23, abs=0.005)
    named = {**config, "architectures": ["Gemma3ForConditionalGeneration"]}
    sglang = planned(named, Sglang(), "1xH200", flags=flags).prediction
    pool = next(term for term in sglang.terms if term.name == "KV pool")
    assert sglang.longest_tokens <= pool.size_bytes / 507_904


def test_a_pool_for_windows_has_its_share_of_tokens_in_sglang(planned):
    """``HybridSWAPoolConfigurator``: 18 full layers, and 0.8 of their tokens in 18 that slide."""
    config = GPT_OSS_BF16 | {"architectures": ["GptOssForCausalLM"]}
    found = planned(config, Sglang(), "2xB200", max_model_len=131_072, flags={"tp": 2}).prediction
    pool = next(term.size_bytes for term in found.terms if term.name == "KV pool")
    assert found.longest_tokens == min(131_072, int(pool / (18 * 1.8 * 4 * 2 * 64 * 2))) - 7
    other = planned(config | {"architectures": ["InklingForConditionalGeneration"]}, Sglang())
    assert "a special pool for its windows" in other.verdict


def test_windows_of_a_class_that_config_json_does_not_name_are_not_modelled_in_sglang(planned):
    config = {name: value for name, value in MODELS["gemma-3-27b"]["config"].items() if name != "architectures"}
    row = planned(config, Sglang(), flags={"mem-fraction-static": 0.9})
    assert row.prediction is None
    assert row.verdict.endswith("config.json has windows, and names no class (architectures)")


def test_more_context_than_positions_is_refused(planned):
    config = {**MODELS["qwen3-235b"]["config"], "max_position_embeddings": 40_960}
    flags = {"tensor-parallel-size": 8}
    refused = planned(config, Vllm(), max_model_len=131_072, flags=flags)
    assert refused.verdict.startswith("refuses: max_model_len 131,072 is above the 40,960 positions")
    scaled = {
        **config,
        "max_position_embeddings": 131_072,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
    }
    assert planned(scaled, Vllm(), max_model_len=131_072, flags=flags).prediction.outcome == "serves"


def test_a_flag_that_is_not_looked_at_is_named(planned):
    row = planned(MODELS["qwen3-235b"]["config"], Vllm(), flags={"data-parallel-size": 8})
    assert row.verdict == "the memory of vllm with --data-parallel-size is not modelled"


def test_the_smallest_group_follows_the_version(planned):
    shape = of(planned_shape({"max_window_layers": 12, "use_sliding_window": True, "sliding_window": 4096}))
    counts = {
        v: memory.Pool(shape, GiB, group_ratio=memory.group_ratio(v)).group_layers
        for v in ("==0.11.0", "==0.12.0", ">=0.25")
    }
    assert (shape.full, shape.sliding) == (12, 16)
    assert counts == {"==0.11.0": 12, "==0.12.0": 12, ">=0.25": 16}


def planned_shape(changes: dict[str, object]) -> ModelShape:
    found = read({**MODELS["qwen2.5-7b-1m"]["config"], "layer_types": None, **changes})
    assert isinstance(found, ModelShape), found
    return found


def test_sliding_windows_were_never_lost_in_old_versions(planned):
    old, new = (
        next(
            t for t in planned(GPT_OSS_BF16, Vllm(), version=v).prediction.terms if t.name == "KV cache of one request"
        )
        for v in ("==0.11.0", ">=0.25")
    )
    assert old == new


def test_what_is_not_one_number_has_bounds(planned):
    found = planned(MODELS["qwen3-30b-a3b"]["config"], Vllm(), "1xH100", version=">=0.25").prediction
    other, pool = (next(term for term in found.terms if term.name == name) for name in ("other", "KV pool"))
    for term in (other, pool):
        low, high = term.bounds_bytes
        assert low < term.size_bytes < high
    assert pool.bounds_bytes[1] - pool.bounds_bytes[0] == pytest.approx(other.bounds_bytes[1] - other.bounds_bytes[0])
    assert str(other).startswith(f"other {other.size_bytes / GiB:.2f} GiB ({other.bounds_bytes[0] / GiB:.2f} to ")


def test_an_outcome_is_in_doubt_near_the_limit_of_a_smaller_device(planned):
    """What graphs and libraries take is known to a GiB or two: 128,416 tokens are expected to fit, and 127,000 may not."""
    config = MODELS["qwen3-30b-a3b"]["config"] | {"max_position_embeddings": 262_144}
    near = planned(config, Vllm(), "1xH100", version=">=0.25", max_model_len=127_000)
    assert near.verdict.startswith("not decided"), near.verdict
    assert not near.contradicts
    far = planned(MODELS["qwen2.5-7b-1m"]["config"], Vllm(), "1xH100")
    assert far.verdict.startswith("fits")


@pytest.mark.parametrize(
    ("name", "backend", "why"),
    [
        ("HY-4", Sglang(), "the pools of hy_v4"),
        ("GLM-5.3-Flash", Vllm(), "a state of kind compressor"),
        ("Qwen3.8-Flash-Next", Vllm(), "encoders that are not counted"),
        ("Mistral-Small-4", Vllm(), "kv_lora_rank of mistral4"),
    ],
)
def test_pages_that_no_source_shows_are_named(planned, name, backend, why):
    row = planned(
        MODELS[name]["config"], backend, flags={"mem-fraction-static": 0.8} if backend.name == "sglang" else {}
    )
    assert row.prediction is None
    assert "is not modelled" in row.verdict
    assert why in row.verdict


def test_latents_of_hy_4_are_pages_of_vllm(planned):
    row = planned(MODELS["HY-4"]["config"], Vllm())
    assert row.prediction.outcome == "serves"
