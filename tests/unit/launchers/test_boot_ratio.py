import pytest

from pytest_longctx.client.server import Server
from pytest_longctx.errors import BootError, TableError
from pytest_longctx.findings.scope import Conditions
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.launchers.boot import Boot, ratio
from pytest_longctx.observation import Observation
from tests.unit import factories

FINDING = factories.finding(
    question="ratio",
    ask={"against": "bf16"},
    scope={"deployment": ["bf16", "fp8"]},
    bounds={"capacity_ratio": {"unit": "x", "reference": 2.0, "tolerance": "1%", "because": "b"}},
)


def booted(name: str, **figures: float) -> Boot:
    one = factories.deployment(name=name)
    server = Server("http://127.0.0.1:1", "m", None, one, "process", figures=figures)  # type: ignore[arg-type]
    return Boot(Conditions(one), {}, 1.0, server)


def failed(name: str) -> Boot:
    seen = Observation("refuses", {"kv_cache_tokens": 1.0}, "load", said="no such dtype")
    return Boot(Conditions(factories.deployment(name=name)), {}, 1.0, failure=BootError("it failed", seen))


def test_a_ratio_names_both_deployments_and_the_divisor():
    assert FINDING.divided() == ("fp8", "bf16")


@pytest.mark.parametrize(
    "changes",
    [
        {"ask": {}},
        {"scope": {"deployment": ["fp8"]}},
        {"scope": {"deployment": ["bf16", "fp8", "fp4"]}},
        {"scope": {"deployment": ["fp8", "fp4"]}},
    ],
)
def test_a_ratio_that_does_not_say_of_what_is_refused(changes):
    whole = {"ask": {"against": "bf16"}, "scope": {"deployment": ["bf16", "fp8"]}}
    with pytest.raises(TableError, match="a 'ratio' finding"):
        factories.finding(question="ratio", **{**whole, **changes})


@pytest.mark.parametrize(("tokens", "word"), [(200.0, "holds"), (197.0, "broken")])
def test_the_capacities_of_two_boots_are_divided(tokens, word):
    seen = ratio(FINDING, {"fp8": booted("fp8", kv_cache_tokens=tokens), "bf16": booted("bf16", kv_cache_tokens=100.0)})
    assert seen.metrics == {"capacity_ratio": tokens / 100}
    assert judge(FINDING, seen).word == word


def test_a_capacity_that_was_not_logged_is_not_observed():
    seen = ratio(FINDING, {"fp8": booted("fp8", kv_cache_tokens=200.0), "bf16": booted("bf16")})
    assert judge(FINDING, seen).why.startswith("capacity_ratio: not observed, wanted >= 1.98x")


@pytest.mark.parametrize(
    "boots", [(booted("fp8", kv_cache_tokens=2.0), failed("bf16")), (failed("fp8"), booted("bf16"))]
)
def test_a_boot_that_failed_stands_for_both(boots):
    assert (
        judge(FINDING, ratio(FINDING, dict(zip(("fp8", "bf16"), boots, strict=True)))).why
        == 'outcome: refuses, wanted serves ("no such dtype")'
    )
