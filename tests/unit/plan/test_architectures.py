"""What a plan says of an architecture that the planned version of an engine may have no class for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_longctx.backends.architectures import has_class
from pytest_longctx.backends.versions import recorded
from pytest_longctx.deployments.command import Start
from pytest_longctx.plan import answer
from pytest_longctx.plan.boots import foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Given, of_start

ROOT = Path(__file__).parents[3]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 64}
BAMBA = json.loads((ROOT / "docs/results/vllm-0.33.0-1xh200/families-2/models/bamba-9b.json").read_text())


def planned(config, engine, version, *flags, env=()):
    words = ("M", *flags) if engine == "vllm" else ("--model-path", "M", *flags)
    asked = of_start(Start(engine, words, env=dict(env)), Given(version=version))
    return answer.of(foresee(replace(asked, config=config, memory={}), Place.parse("1xH200", host_bytes=512 * 2**30)))


def named(*names, **keys):
    return LLAMA | {"architectures": list(names)} | keys


@pytest.mark.parametrize(
    ("version", "phase"),
    [("0.24.0", "config"), ("0.25.0", "config"), ("0.29.0", "config"), ("0.30.0", "load"), ("0.33.0", "load")],
)
def test_a_removed_architecture_is_refused_and_the_last_version_named(version, phase):
    found = planned(BAMBA, "vllm", version)
    assert (found.outcome, found.phase, found.kind) == ("refuses", phase, "model-unsupported")
    assert "BambaForCausalLM, which it had until 0.23.0" in found.headline
    assert "  or            vLLM 0.23.0, the last version with a class for BambaForCausalLM" in found.lines()


@pytest.mark.parametrize("version", ["0.11.0", "0.12.0", "0.22.1", "0.23.0"])
def test_a_version_that_has_the_architecture_serves_it(version):
    found = planned(BAMBA, "vllm", version)
    assert (found.outcome, found.boot.unmodelled) == ("fits", ())


@pytest.mark.parametrize("config", [LLAMA, QWEN3], ids=["llama", "qwen3"])
@pytest.mark.parametrize(
    ("engine", "version"),
    [
        *(("vllm", each) for each in ("0.11.0", "0.12.0", "0.25.0", "0.28.0", "0.33.0", None)),
        *(("sglang", each) for each in ("0.5.6", "0.5.16", "0.5.23", None)),
    ],
)
def test_a_model_of_every_version_fits_in_each(config, engine, version):
    found = planned(config, engine, version)
    assert (found.outcome, found.boot.unmodelled) == ("fits", ())


@pytest.mark.parametrize(
    ("config", "engine", "version", "said"),
    [
        (named("MiniMaxM1ForCausalLM"), "vllm", "0.32.0", "until 0.23.0, and Transformers has none"),
        (named("RwkvForCausalLM"), "vllm", "0.32.0", "does not take the one of Transformers"),
        (named("JambaForCausalLM"), "sglang", "0.5.23", "does not take the one of Transformers"),
        (named("OddForCausalLM"), "sglang", "0.5.23", "Transformers has none"),
    ],
)
def test_an_architecture_without_a_fallback_is_refused(config, engine, version, said):
    found = planned(config, engine, version)
    assert (found.outcome, found.phase, found.kind) == ("refuses", "config", "model-unsupported")
    assert said in found.headline


@pytest.mark.parametrize(
    ("config", "engine", "version", "said"),
    [
        (named("OddForCausalLM"), "vllm", "0.33.0", "or a plugin has one that it takes is not known"),
        (named("OddForCausalLM"), "vllm", "0.24.0", "vllm 0.24.0 is not recorded"),
        (named("OddForCausalLM"), "vllm", "0.34.0", "vllm 0.34.0 is not recorded"),
        (named("PersimmonForCausalLM"), "vllm", "0.33.0", "until 0.25.0; it may serve the class of Transformers"),
        (named("Jais2ForCausalLM"), "sglang", "0.5.23", "it may serve the class of Transformers"),
        (
            named("OddForCausalLM", auto_map={"AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}),
            "vllm",
            "0.33.0",
            "it may serve the model's own code",
        ),
        (
            named("OddForCausalLM", auto_map={"AutoModel": "modeling_odd.OddModel"}),
            "sglang",
            "0.5.23",
            "it may serve the model's own code",
        ),
    ],
)
def test_what_a_fallback_does_is_not_known(config, engine, version, said):
    found = planned(config, engine, version)
    assert found.outcome == "fits"
    assert found.headline.startswith("fits (partial")
    assert said in found.boot.unmodelled[0]


def test_a_version_that_was_not_asked_for_refuses_no_architecture():
    found = planned(BAMBA, "vllm", None)
    assert found.outcome == "fits"
    assert found.headline.startswith("fits (partial")
    assert found.boot.unmodelled[0].startswith(
        "vLLM 0.33.0 has no class for BambaForCausalLM, which it had until 0.23.0"
    )


def test_a_class_that_is_brought_or_none_that_is_named_is_not_judged():
    assert planned(named(), "sglang", "0.5.23").boot.unmodelled == ()
    env = {"SGLANG_EXTERNAL_MODEL_PACKAGE": "mine"}
    assert planned(named("OddForCausalLM"), "sglang", "0.5.23", env=env).outcome == "fits"
    brought = '{"OddForCausalLM": "mine:Odd"}'
    assert planned(named("OddForCausalLM"), "vllm", "0.33.0", "--model-class-overrides", brought).boot.unmodelled == ()


def test_an_engine_that_may_not_fall_back_refuses():
    found = planned(named("PersimmonForCausalLM"), "vllm", "0.33.0", "--model-impl", "vllm")
    assert (found.outcome, found.kind) == ("refuses", "model-unsupported")


def test_a_class_that_sglang_serves_by_another_name_is_found():
    for name in ("Olmo3ForCausalLM", "DeepseekVLV2ForCausalLM", "LongcatCausalLM", "Qwen3_5Model"):
        assert has_class(recorded("sglang")[-1], (name,)), name
    assert planned(named("Olmo3ForCausalLM"), "sglang", "0.5.23").boot.unmodelled == ()


def test_a_class_that_vllm_converts_is_found_by_the_beginning_of_its_name():
    assert has_class(recorded("vllm")[-1], ("GraniteForSequenceClassification",))
    assert not has_class(recorded("vllm")[-1], ("BambaForSequenceClassification",))
