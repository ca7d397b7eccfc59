"""What is recorded of the versions of an engine, and that no remedy or shipped deployment names a flag that its version lacks."""

import re

import pytest

from pytest_longctx.backends import Backend
from pytest_longctx.backends.versions import EngineVersion, meant, recorded
from pytest_longctx.diagnosis.signatures import common
from pytest_longctx.registry import BACKENDS, load

SPELT = re.compile(r"(?<![\w-])(?P<flag>--(?!longctx-)[a-z][\w-]*)(?: [\w.]+)?(?: before (?P<before>[\d.]+\d))?")


OWNERS = re.compile(r"((?:vLLM|SGLang)(?:, (?:vLLM|SGLang))*): ")


def owners(flag: re.Match[str]) -> list[str]:
    """The engines whose *flag* it is, as the brackets around it in a remedy say: (vLLM: --a, --b; SGLang: --c)."""
    said = OWNERS.findall(flag.string[: flag.start()].rpartition("(")[2])
    return said[-1].lower().split(", ") if said else []


def by_version(engine: str) -> dict[str, EngineVersion]:
    return {each.version: each for each in recorded(engine)}


@pytest.mark.parametrize(
    ("engine", "version", "word", "taken"),
    [
        ("vllm", "0.33.0", "--tensor-parallel-size=8", "known"),
        ("vllm", "0.33.0", "--tensor_parallel_size", "known"),
        ("vllm", "0.33.0", "-tp", "known"),
        ("vllm", "0.33.0", "--tensor-par", "known"),
        ("vllm", "0.33.0", "--no-enable-prefix-caching", "known"),
        ("vllm", "0.33.0", "--compilation-config.level", "known"),
        ("vllm", "0.33.0", "--max-num", "ambiguous"),
        ("vllm", "0.33.0", "--calculate-kv-scales", "unknown"),
        ("vllm", "0.27.1", "--calculate-kv-scales", "known"),
        ("vllm", "0.33.0", "--tensor-parallel-size-", "unknown"),
        ("sglang", "0.5.16", "--cuda-graph-max-bs", "known"),
        ("sglang", "0.5.23", "--cuda-graph-max-bs", "ambiguous"),
        ("sglang", "0.5.23", "--tp", "known"),
    ],
)
def test_a_word_is_read_as_the_engines_parser_reads_it(engine, version, word, taken):
    assert by_version(engine)[version].takes(word) == taken


def test_a_beginning_of_several_flags_names_them():
    found = by_version("sglang")["0.5.23"]
    assert found.candidates("--cuda-graph-max-bs") == ["--cuda-graph-max-bs-decode", "--cuda-graph-max-bs-prefill"]
    assert found.flag("--cuda-graph-max-bs") is None
    assert found.flag("--tp=4") == found.flag("--tensor-parallel-size")


def test_the_versions_that_a_range_means():
    assert [each.version for each in meant("sglang", ">=0.5.22")] == ["0.5.22", "0.5.23"]
    assert [each.version for each in meant("sglang", None)] == ["0.5.23"]
    assert meant("openai", None) == meant("../vllm", None) == ()


@pytest.mark.parametrize("one", [*recorded("vllm"), *recorded("sglang")], ids=lambda one: f"{one.engine}-{one.version}")
def test_a_recorded_version_is_whole(one):
    assert (one.content["engine"], one.content["version"]) == (one.engine, one.version)
    assert one.command_line["flags"] == one.content["flags"]
    assert len(one.spellings) > 150
    assert "auto" in one.content["values"]["kv_cache_dtypes"]
    assert any(name.startswith(f"{one.engine}:") for name in one.content["metrics"])


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu", "sglang"])
def test_a_remedy_names_flags_that_the_engine_has(name):
    backend: Backend = load(BACKENDS[name])()
    catalogue = backend.catalogue
    rows = [
        *((each.remedy, each.version) for each in (*catalogue.signature, *catalogue.refusal)),
        *((each.remedy or "", None) for each in catalogue.place),
    ]
    package = str(backend.package)
    named = [
        (match, wanted)
        for remedy, wanted in rows
        for match in SPELT.finditer(remedy)
        if package in (owners(match) or [package])
    ]
    assert named
    for match, wanted in named:
        spoken = meant(package, f"<{match['before']}" if match["before"] else wanted)[-1:]
        assert [each.takes(match["flag"]) for each in spoken] == ["known"], match[0]


def test_a_remedy_for_every_engine_says_whose_flags_it_names():
    known = common()
    remedies = [*(each.remedy for each in known.signature), *(each.remedy or "" for each in known.place)]
    flagged = [(remedy, match) for remedy in remedies for match in SPELT.finditer(remedy)]
    assert flagged
    for remedy, match in flagged:
        assert owners(match), remedy
        for name in owners(match):
            assert meant(name, None)[-1].takes(match["flag"]) == "known", (name, remedy)
