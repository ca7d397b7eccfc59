"""The small tables beside an answer."""

import json
from pathlib import Path

import pytest

from pytest_longctx import cli
from pytest_longctx.deployments.command import Start
from pytest_longctx.errors import UsageError
from pytest_longctx.plan import boots, tables
from pytest_longctx.plan.boots import foresee
from pytest_longctx.plan.place import Place
from pytest_longctx.plan.planned_server import Given, of_start

QWEN = json.loads((Path(__file__).parent.parent.parent / "data/shapes/models.json").read_text())["qwen3-30b-a3b"][
    "config"
]


@pytest.fixture
def model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return tmp_path


@pytest.fixture
def asked(model):
    return lambda engine, *words: of_start(Start(engine, ("M", *words) if engine == "vllm" else words), Given(model))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_is_solved_serves_and_a_little_more_does_not(asked, engine):
    one, place = asked(engine), Place.parse("1xH200")
    auto, narrow = tables.solve(one, place)
    assert auto.longest_tokens
    assert narrow.longest_tokens
    assert auto.longest_tokens <= narrow.longest_tokens
    assert 0 < (auto.requests or 0) < (narrow.requests or 0)
    assert (auto.devices, narrow.devices) == (1, 1)
    flag = one.length_flag
    assert foresee(one.of(**{flag: auto.longest_tokens}), place).serves
    assert not foresee(one.of(**{flag: auto.longest_tokens + 16}), place).serves


def test_the_fewest_devices_are_found_where_those_given_are_too_few(asked):
    one = asked("vllm", "--max-model-len", "262144")
    auto, _ = tables.solve(one, Place.parse("1x48GiB"))
    assert auto.requests is None
    assert auto.devices in (2, 4, 8)
    shown = list(tables.solved_lines([auto], foresee(one, Place.parse("1x48GiB"))))
    assert shown[-1] == "  KV dtype needed for this length: none of these is enough"


def test_another_version_reads_the_same_words(asked, model):
    other = tables.other(asked("vllm", "-tp", "2"), "0.12.0", Given(model))
    assert (other.engine, other.version, dict(other.flags)) == ("vllm", "0.12.0", {"tensor-parallel-size": 2})


def test_another_engine_has_the_flags_that_mean_the_same(asked, model):
    one = asked("vllm", "-tp", "2", "--max-model-len", "32k", "--kv-cache-dtype", "fp8", "--enable-prefix-caching")
    other = tables.other(one, "sglang", Given(model))
    assert dict(other.flags) == {"tp-size": 2, "context-length": 32_000, "kv-cache-dtype": "fp8_e4m3"}
    assert other.notes == ("compared without --enable-prefix-caching",)
    back = tables.other(other, "vllm==0.27.1", Given(model))
    assert back.flags["kv-cache-dtype"] == "fp8"
    assert back.version == "0.27.1"
    assert boots.foresee(other, Place.parse("2xH200")).serves


@pytest.mark.parametrize(
    ("wanted", "said"), [("trt", "write a version"), ("vllm", "the command already plans for this engine")]
)
def test_what_cannot_be_compared_is_said(asked, model, wanted, said):
    with pytest.raises(UsageError, match=said):
        tables.other(asked("vllm"), wanted, Given(model))


def test_the_console_shows_both(model, capsys):
    typed = ["plan", "--hardware", "2xH200", "--model", str(model), "--solve", "--compare", "sglang"]
    assert cli.main([*typed, "--", "vllm", "serve", "M", "-tp", "2"]) == 0
    out = capsys.readouterr().out
    assert "fewest devices" in out
    assert "sglang 0.5.23" in out
    assert cli.main([*typed, "--json", "--", "vllm", "serve", "M", "-tp", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert [each["dtype"] for each in row["solve"]] == ["auto", "fp8"]
    assert row["compare"]["engine"] == "sglang"
