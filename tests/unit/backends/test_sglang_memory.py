"""Overhead of SGLang's prefix cache during prefill, as used by `longctx plan` and by the wait for a first token."""

import pytest

from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.sglang.radix_tree import radix_walk_s
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.deployments import models
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.plan import expected_ttft_s
from tests.unit import factories

H200 = Hardware.parse("1xH200")
PYTHON_TREE = ">=0.5.16,<0.5.17"
MEASURED_S = {
    # tokens, flags: TTFT on one H200, docs/results/sglang-0.5.16-1xh200
    (1_000_000, None): 4.5,
    (2_000_000, None): 27.2,
    (4_800_512, None): 406,  # of ten million tokens, from the log: 10:41:03 to 10:47:49
    (5_000_000, None): 507,
    (5_000_000, ("chunked-prefill-size", 32768)): 107.5,
    (5_000_000, ("disable-radix-cache", True)): 61.5,
    (10_000_000, ("disable-radix-cache", True)): 237.8,
}


def probe(**changes):
    model = {"name": "probe", "make": "probe-llama4-with-images", "weights": "probe"}
    return factories.deployment(**{"backend": "sglang", "max_model_len": 10_001_024, "model": model, **changes})


def walk_s(backend, tokens, **changes):
    one = probe(**changes)
    return backend.host_s(one, models.shape_of(one.model), tokens)


@pytest.mark.parametrize("case", MEASURED_S, ids=str)
def test_long_prefills_are_expected_to_take_what_they_took(case):
    tokens, flag = case
    one = probe(version=PYTHON_TREE, flags=dict([flag] if flag else []))
    expected_s = expected_ttft_s(one, tokens, H200, Sglang())
    assert expected_s == pytest.approx(MEASURED_S[case], rel=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "==0.5.6"},
        {"flags": {"disable-radix-cache": True}},
        {"flags": {"chunked-prefill-size": -1}},
        {"flags": {"chunked-prefill-size": 0}},
    ],
)
def test_where_nothing_is_walked_nothing_is_added(changes):
    assert walk_s(Sglang(), 10_000_000, **changes) == 0


@pytest.mark.parametrize(("chunk_tokens", "nodes"), [(4096, 1), (8192, 1), (8193, 2), (32768, 2)])
def test_a_chunk_longer_than_the_window_becomes_two_nodes(chunk_tokens, nodes):
    seen_s = walk_s(Sglang(), 5_000_000, version=PYTHON_TREE, flags={"chunked-prefill-size": chunk_tokens})
    assert seen_s == pytest.approx(nodes * radix_walk_s(5_000_000, chunk_tokens))


@pytest.mark.parametrize(("version", "power"), [(PYTHON_TREE, 3), (">=0.5.23,<0.5.24", 2), (None, 2)])
def test_the_delay_grows_by_another_power_since_the_core_is_in_rust(version, power):
    once_s, twice_s = (walk_s(Sglang(), tokens, version=version) for tokens in (1_000_000, 2_000_000))
    assert twice_s / once_s == pytest.approx(2**power)


def test_another_engine_adds_nothing():
    assert walk_s(Vllm(), 10_000_000) == 0
