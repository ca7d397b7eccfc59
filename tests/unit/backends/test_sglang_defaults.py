"""What SGLang chooses by itself, against what boots of 0.5.16 on one H100 and one H200 logged."""

import json
import re
from pathlib import Path

import pytest

from pytest_longctx.backends.sglang import Sglang, defaults
from pytest_longctx.deployments.deployment import Deployment, Model
from pytest_longctx.deployments.shape import from_config, of
from pytest_longctx.shapes import ModelShape, read
from pytest_longctx.units import GiB
from tests.unit.factories import LLAMA_8B

H100, H200 = 81_559, 143_771
BOOTS = Path(__file__).parents[3] / "docs" / "results" / "sglang-0.5.16-1xh100" / "default-fractions" / "boots"
MODELS = Path(__file__).parents[2] / "data" / "sglang"


@pytest.mark.parametrize(
    ("gpu_mib", "chunk", "decode_graphs", "logged"),
    [
        (H100, 8192, 256, 0.83),
        (H100, 2048, 256, 0.874),
        (H100, 16_384, 256, 0.677),
        (H100, 32_768, 256, 0.373),
        (H100, 8192, 32, 0.835),
        (H100, 8192, None, 0.841),
        (H200, 8192, 256, 0.903),
    ],
)
def test_the_fraction_is_the_one_that_was_logged(gpu_mib, chunk, decode_graphs, logged):
    assert defaults.static_fraction(gpu_mib, chunk, decode_graphs, chunk) == logged


OUTSIDE = {
    "q25-1m-default": "it ended before it chose",
    "q36-27b-default": "multimodal: another rule",
    "c-l8-1m-8-requests": "it was refused before it chose",
    "c-l8-static-0.9": "its fraction was given",
}


@pytest.mark.parametrize("name", sorted({log.stem for log in BOOTS.glob("*.log")} - OUTSIDE.keys()))
def test_every_recorded_boot_chose_what_the_rule_says(name):
    text = (BOOTS / f"{name}.log").read_text(errors="replace")
    chosen = dict(re.findall(r"\b(chunked_prefill_size|mem_fraction_static)=([\d.]+)", text))
    chunk = int(chosen["chunked_prefill_size"])
    most = re.search(r"--cuda-graph-max-bs (\d+)", text)
    graphs = None if "--disable-cuda-graph" in text else int(most[1]) if most else 256
    prefill_tokens = 0 if name == "dsv3-4l-triton" else chunk  # MLA by Triton captures none
    fraction = defaults.static_fraction(H100, chunk, graphs, prefill_tokens)
    assert fraction == float(chosen["mem_fraction_static"])


def test_every_boot_is_there():
    assert len(list(BOOTS.glob("*.log"))) == 21


@pytest.mark.parametrize(
    ("gib", "version", "chunk", "graphs"),
    [
        (79.1, None, 8192, 256),
        (139.8, None, 8192, 256),
        (178, None, 16_384, 512),
        (23.5, "==0.5.16", 2048, 24),
        (23.5, None, 4096, 48),
    ],
)
def test_chunk_and_graphs_follow_the_device(gib, version, chunk, graphs):
    mib = defaults.total_mib(gib * GiB)
    assert (defaults.chunk_tokens(mib, version), defaults.largest_decode_graph(mib, 1, version)) == (chunk, graphs)


def test_four_devices_have_larger_graphs():
    assert defaults.largest_decode_graph(H200, 4, None) == 512


@pytest.mark.parametrize(
    ("name", "model", "flags"),
    [
        ("l8-default", "llama31-8b", {}),
        ("l8-chunk2048", "llama31-8b", {"chunked-prefill-size": 2048}),
        ("l8-chunk32768", "llama31-8b", {"chunked-prefill-size": 32_768}),
        ("l8-graphs-off", "llama31-8b", {"disable-cuda-graph": True}),
        ("l8-maxbs32", "llama31-8b", {"cuda-graph-max-bs": 32}),
        ("l8-requests64", "llama31-8b", {"max-running-requests": 64}),
        ("l8-fp8kv", "llama31-8b", {"kv-cache-dtype": "fp8_e4m3"}),
        ("q30b-default", "qwen3-30b-a3b", {}),
    ],
)
def test_the_pool_at_the_default_fraction_is_as_large_as_logged(name, model, flags):
    shape = from_config(json.loads((MODELS / model / "config.json").read_text()))
    length = 131_072 if model == "llama31-8b" else 262_144
    served = Model(name=model, id=model, weights="random")
    one = Deployment(
        name=name, title=name, backend="sglang", version="==0.5.16", max_model_len=length, model=served, flags=flags
    )
    found = Sglang().predict(one, shape, 79.1 * GiB)
    assert found is not None
    pool = next(term.size_bytes for term in found.terms if term.name == "KV pool")
    value_bytes = 1 if "kv-cache-dtype" in flags else 2
    (tokens,) = re.findall(r"#tokens: (\d+)", (BOOTS / f"{name}.log").read_text(errors="replace"))
    assert pool / shape.kv_bytes_per_token(value_bytes) == pytest.approx(int(tokens), rel=0.01)


def _sglang(version, hardware="1xH100", **flags):
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    facts = {"name": "one", "title": "", "backend": "sglang", "hardware": hardware, "max_model_len": 131072}
    return Deployment.model_validate(facts | {"version": version, "model": {"name": "M"}, "flags": named})


def test_the_default_share_of_a_version_that_was_not_read_is_an_interval():
    """0.4.1, Llama-3.1-8B with no flags on an H100: 444,500 tokens, at a share of 0.88."""
    found = read(LLAMA_8B)
    assert isinstance(found, ModelShape)
    shape = of(found, "LlamaForCausalLM")
    predicted = Sglang().predict(_sglang("==0.4.1"), shape, 79.1 * GiB)
    assert predicted is not None
    pool = next(term for term in predicted.terms if term.name == "KV pool")
    assert pool.bounds_bytes is not None
    low, high = pool.bounds_bytes
    assert low < 444_500 * 131_072 < high
    for known in ("==0.5.16", "==0.5.6"):
        exact = Sglang().predict(_sglang(known), shape, 79.1 * GiB)
        assert exact is not None
        assert next(term for term in exact.terms if term.name == "KV pool").bounds_bytes is None
    given = Sglang().predict(_sglang("==0.4.1", mem_fraction_static=0.88), shape, 79.1 * GiB)
    assert given is not None
    assert given.longest_tokens == pytest.approx(131_065)


def test_the_memory_of_amd_devices_is_not_guessed():
    """A public boot of Qwen3.8-27B on an MI355X has 17 to 21 % fewer tokens than its share leaves."""
    found = read(LLAMA_8B)
    assert isinstance(found, ModelShape)
    assert "AITER" in Sglang().unmodelled(_sglang(None, "1xMI300X"), of(found, "LlamaForCausalLM"))


@pytest.mark.parametrize(("version", "bounded"), [("==0.5.6.post2", False), ("==0.5.16", True), ("==0.4.9", True)])
def test_what_communication_takes_is_an_interval_unless_it_was_measured(version, bounded):
    found = read(LLAMA_8B)
    assert isinstance(found, ModelShape)
    one = _sglang(version, "4xH100", tp_size=4, mem_fraction_static=0.9)
    predicted = Sglang().predict(one, of(found, "LlamaForCausalLM"), 79.1 * GiB)
    assert predicted is not None
    pool = next(term for term in predicted.terms if term.name == "KV pool")
    assert (pool.bounds_bytes is not None) is bounded
