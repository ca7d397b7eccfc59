"""Command lines as the parser of an engine's version reads them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import flags
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.versions import EngineVersion, recorded
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments.deployment import Deployment, Model
from pytest_longctx.plan.uncounted import memory_flags


def version(engine: str, number: str) -> EngineVersion:
    return next(each for each in recorded(engine) if each.version == number)


VLLM, SGLANG = version("vllm", "0.33.0"), version("sglang", "0.5.23")


@pytest.mark.parametrize(
    "line",
    [
        "--tensor-parallel-size 8",
        "--tensor-parallel-size=8",
        "--tensor_parallel_size 8",
        "--tensor_parallel 8",
        "--tensor-par=8",
        "-tp 8",
        "-tp=8",
        "--tensor-parallel-size 4 -tp 8",
    ],
)
def test_each_spelling_of_vllm_is_the_same_flag(line):
    read = flags.read(VLLM, line.split())
    assert (read.flags, read.problems) == ({"tensor-parallel-size": 8}, [])


@pytest.mark.parametrize("line", ["--tp 4", "--tp-size=4", "--tensor-parallel-size 4", "--tensor-parallel 4"])
def test_each_spelling_of_sglang_is_the_same_flag(line):
    read = flags.read(SGLANG, line.split())
    assert (read.flags, read.problems) == ({"tp-size": 4}, [])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1k", 1000), ("1K", 1024), ("128k", 128_000), ("128K", 131_072), ("1M", 2**20), ("1m", 10**6), ("25.6k", 25_600)],
)
def test_lengths_have_suffixes(text, tokens):
    assert flags.read(VLLM, ["--max-model-len", text]).flags == {"max-model-len": tokens}
    assert flags.read(SGLANG, ["--context-length", text]).flags == {"context-length": tokens}


@pytest.mark.parametrize("text", ["auto", "AUTO", "-1"])
def test_a_length_may_be_left_to_the_engine(text):
    assert flags.read(VLLM, ["--max-model-len", text]).flags == {"max-model-len": -1}


def test_a_power_of_1024_takes_no_decimals():
    (problem,) = flags.read(VLLM, ["--max-model-len", "1.5K"]).problems
    assert str(problem) == "--max-model-len 1.5K: a whole number is expected"


def test_json_is_one_word_or_dotted_words():
    whole = flags.read(VLLM, ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'])
    dotted = flags.read(VLLM, ["--speculative-config.method", "ngram", "-sc.num_speculative_tokens=3"])
    assert whole.problems == dotted.problems == []
    assert dotted.table("speculative-config") == whole.table("speculative-config")
    assert dotted.table("speculative-config") == {"method": "ngram", "num_speculative_tokens": 3}


def test_json_that_is_none_is_a_problem():
    (problem,) = flags.read(VLLM, ["--speculative-config", "{'method': 'ngram'}"]).problems
    assert str(problem).startswith("--speculative-config {'method': 'ngram'}: not valid JSON")


def test_switches_take_no_value_and_have_a_no():
    read = flags.read(VLLM, ["--no-enable-prefix-caching", "--enforce-eager", "model"])
    assert read.flags == {"enable-prefix-caching": False, "enforce-eager": True}
    assert read.words == ["model"]
    (problem,) = flags.read(VLLM, ["--enforce-eager=true"]).problems
    assert str(problem) == "--enforce-eager takes no value, but 'true' is given"


def test_the_level_of_optimisation_is_glued():
    assert flags.read(VLLM, ["-O3"]).flags == flags.read(VLLM, ["-O", "3"]).flags == {"optimization-level": "3"}
    assert flags.read(version("vllm", "0.11.0"), ["-O3"]).flags == {"compilation-config": "3"}


def test_what_a_version_lacks_is_named_with_the_nearest_and_those_that_have_it():
    (gone,) = flags.read(VLLM, ["--swap-space", "4", "--max-num-seqs", "8"]).problems
    assert str(gone) == (
        "--swap-space is not a flag of vllm 0.33.0; of the versions that are recorded 0.11.0 to 0.12.0 have it"
    )
    (mistyped,) = flags.read(SGLANG, ["--tensor_parallel_size", "4"]).problems
    assert "the nearest is --tensor-parallel-size" in str(mistyped)


def test_a_beginning_of_several_is_a_problem_and_takes_its_value_with_it():
    read = flags.read(SGLANG, ["--cuda-graph-max-bs", "8", "--tp", "2"])
    assert [each.word for each in read.problems] == ["--cuda-graph-max-bs"]
    assert (read.flags, read.words) == ({"tp-size": 2}, [])


def test_a_value_that_is_not_offered_names_those_that_are():
    (problem,) = flags.read(SGLANG, ["--kv-cache-dtype", "fp9"]).problems
    assert str(problem).startswith("--kv-cache-dtype fp9 is not a value in sglang 0.5.23; there are auto, fp8_e5m2")


def test_a_config_file_comes_before_the_command_line():
    words = flags.words_of_config(
        {"tensor-parallel-size": 2, "enforce-eager": True, "seed": None, "hf-overrides": {"a": 1}}
    )
    read = flags.read(VLLM, [*words, "-tp", "4"])
    assert read.problems == []
    assert read.flags == {"tensor-parallel-size": 4, "enforce-eager": True, "hf-overrides": json.dumps({"a": 1})}


def test_a_deployments_flags_have_the_names_of_its_version():
    one = Deployment(
        name="d",
        title="",
        backend="vllm",
        model=Model(name="m"),
        version=">=0.25",
        flags={"tensor_parallel": 2, "max-model-len": "1K", "calculate-kv-scales": True},
    )
    made = flags.canonical(one, "vllm")
    assert made.flags == {"tensor-parallel-size": 2, "calculate-kv-scales": True}
    assert made.max_model_len == 1024
    assert flags.canonical(one, "openai") is one


@pytest.mark.parametrize(
    ("backend", "asked", "version", "words"),
    [
        (Vllm, {"enable-prefix-caching": False}, None, ("--no-enable-prefix-caching",)),
        (Vllm, {"enable_prefix_caching": False}, ">=0.12,<0.13", ("--no-enable-prefix-caching",)),
        (Vllm, {"enable-chunked-prefill": False}, ">=0.2,<0.3", ("--no-enable-chunked-prefill",)),  # not recorded
        (Vllm, {"block-size": False, "num-gpu-blocks-override": False}, None, ()),
        (Sglang, {"lora-strict-loading": False}, ">=0.5.23", ("--no-lora-strict-loading",)),
        (Sglang, {"disable-radix-cache": False}, None, ()),
    ],
)
def test_false_is_the_negative_form_of_a_flag_that_has_one(backend, asked, version, words):
    """Without it an engine boots with what it has by default, while the plan says that it is off."""
    one = Deployment(name="d", title="", backend=backend.name, model=Model(name="m"), version=version, flags=asked)
    made = backend().argv(one, "python3", "m", 8000)
    assert made[len(made) - len(words) :] == words
    assert not any("=" in word or word == "False" for word in made)
    assert len(made) == len(backend().argv(one.model_copy(update={"flags": {}}), "python3", "m", 8000)) + len(words)


def test_false_is_read_as_the_parser_reads_the_negative_form():
    assert flags.of_table(VLLM, {"enable-prefix-caching": False}).flags == {"enable-prefix-caching": False}
    assert flags.of_table(VLLM, {"block-size": False}).flags == {}


@given(
    st.lists(
        st.sampled_from(
            ["--tp", "-tp", "8", "-1", "--", "-", "=", "--=3", "-O", "-cc.x.y", "--x.y=", "{", "a b", "--max-num"]
        )
    )
)
def test_any_words_are_read(words):
    for engine in (VLLM, SGLANG):
        read = flags.read(engine, words)
        assert set(read.flags) <= set(engine.command_line["flags"])


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_flags_on_which_memory_depends_are_flags_of_some_version(engine):
    known = {name for each in recorded(engine) for name in each.command_line["flags"]}
    assert set(memory_flags(engine)) <= known


@pytest.mark.parametrize(("engine", "backend"), [("vllm", Vllm()), ("sglang", Sglang())])
def test_what_a_backend_does_not_look_at_is_named_in_a_plan(engine, backend):
    known = set(recorded(engine)[-1].command_line["flags"])
    spread = {"data-parallel-size", "enable-expert-parallel", "dp-size", "ep-size"}
    host = {"hicache-size", "enable-hierarchical-cache", "pp-size", "pipeline-parallel-size"}
    assert (backend.unmodelled_flags & known) - spread - host <= set(memory_flags(engine))
