"""Plans of models whose config.json was read: a prediction, or the reason why there is none, and never another row's end."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_longctx.backends import Backend
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm, memory
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
        ("{", "this shape is not understood: config.json: it is no JSON file (JSONDecodeError"),
        ("[" * 100_000, "this shape is not understood: config.json: it is no JSON file (RecursionError"),
        ("[]", "this shape is not understood: config.json: a table is expected"),
        ("{}", "this shape is not understood: model_type"),
        ('{"model_type": "never-seen"}', "this shape is not understood: model_type: this model type is not known"),
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
    assert str(found).startswith("this shape is not understood: config.json: it is no JSON file (UnicodeDecodeError")


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


@pytest.mark.parametrize("backend", [Vllm(), Sglang()], ids=["vllm", "sglang"])
@pytest.mark.parametrize(
    ("name", "why", "bytes_per_token"),
    [
        ("DeepSeek-V3", "latent attention", "70,272"),
        ("qwen3-next-80b", "layers that keep a state", "24,576"),
        ("Gemma-4-31B-IT-NVFP4", "heads of several shapes", "81,920"),
        ("gemma-3n-e4b", "layers that keep no cache of their own", "8,192"),
    ],
)
def test_a_family_that_is_not_modelled_has_its_sizes(planned, backend, name, why, bytes_per_token):
    row = planned(MODELS[name]["config"], backend)
    assert row.prediction is None
    assert f"the memory of {backend.name} for " in row.verdict
    assert why in row.verdict
    assert f"{bytes_per_token} bytes of BF16 KV cache a token" in row.sizes


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


def test_a_pool_for_windows_beside_that_of_llama_4_is_not_modelled_in_sglang(planned):
    assert planned(GPT_OSS_BF16, Sglang()).verdict.endswith("for gpt_oss is not modelled: a pool for its windows")


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


def test_an_outcome_is_in_doubt_near_the_limit_of_a_smaller_device(planned):
    config = MODELS["qwen3-30b-a3b"]["config"]
    near = planned(config, Vllm(), "1xH100", max_model_len=40_960)
    assert near.verdict.startswith("not decided")
    assert not near.contradicts
    far = planned(MODELS["qwen2.5-7b-1m"]["config"], Vllm(), "1xH100")
    assert far.verdict.startswith("fits")
