import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx import toml
from pytest_longctx.errors import TableError
from pytest_longctx.findings import claims
from pytest_longctx.findings.ask import Claim


def claim(**content):
    return toml.check({"shape": "llama-4-scout", "tokens": 2_000_000, **content}, Claim, "a claim")


def test_a_claim_of_nothing_adds_up():
    assert claims.observe(claim()).outcome == "adds up"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"hardware": "8xH200", "read_s": 60.0}, "1.18 times the hardware's peak"),
        ({"cached_tokens": 100_000}, "a cache answered 5.0%"),
        ({"logged_tokens_per_s": 200_000.0}, "divided by the log window of 10 s"),
        ({"kv_gib": 100.0}, "kv is 0.27 times"),
        ({"hardware": "8xH200", "weights_gib": 4.0}, "weights is 0.16 times"),
        ({"moved_s": 10.0, "moved_gib_per_s": 50.0}, "kv_rate is 1.37 times"),
        ({"slow_s": 100.0, "fast_s": 10.0, "speedup": 20.0}, "speedup is 2.00 times"),
    ],
)
def test_a_figure_that_cannot_be_is_named_with_its_reason(content, message):
    seen = claims.observe(claim(**content))
    assert seen.outcome == "cannot be"
    assert message in seen.said
    assert ";" not in seen.said


@pytest.mark.parametrize(
    "content",
    [
        {"hardware": "8xH200", "read_s": 152.3},  # measured with vLLM 0.25.1
        {"hardware": "cpu", "read_s": 0.001},  # its peak is unknown
        {"cached_tokens": 20_000},
        {"logged_tokens_per_s": 13_130.0},
        {"kv_gib": 366.0},
        {"slow_s": 100.0, "fast_s": 10.0},
    ],
)
def test_a_figure_that_can_be_adds_up(content):
    assert claims.observe(claim(**content)).outcome == "adds up"


@given(st.integers(1_000, 10_000_000), st.floats(1.0, 1e5))
def test_a_whole_prompt_over_ten_seconds_is_an_artefact_at_every_length(tokens, seconds):
    made = claims.observe(claim(tokens=tokens, logged_tokens_per_s=tokens / seconds))
    assert (made.outcome == "cannot be") is (abs(seconds - 10) < 0.01)


def test_a_shape_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(TableError, match="did you mean 'llama-4-scout'"):
        claims.observe(claim(shape="llama-4-scoot"))
