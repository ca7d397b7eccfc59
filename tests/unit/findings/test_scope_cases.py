import pytest

from pytest_longctx.findings.scope import Case, dead
from tests.unit import factories

CLAIM = {"question": "claimed", "claim": {"shape": "llama-2-7b", "tokens": 10}}


@pytest.mark.parametrize(
    ("scope", "deployment", "is_dead"),
    [
        ({}, {}, False),
        ({"backend": "sglang"}, {}, True),
        ({"hardware": "8xH200"}, {"hardware": "1xH200"}, True),
        ({"hardware": "8xH200"}, {"hardware": "8xH200"}, False),
        ({"version": ">=0.12,<0.14"}, {"version": ">=0.25"}, True),
        ({"version": ">=0.12,<0.14"}, {"version": "==0.13.*"}, False),
        ({}, {"only_named": True}, True),
        ({"deployment": "tiny"}, {"only_named": True}, False),
    ],
)
def test_a_finding_that_meets_no_deployment_is_dead(scope, deployment, is_dead):
    finding = factories.finding(scope=scope)
    assert dead([finding], [factories.deployment(**deployment)]) == ([finding] if is_dead else [])


def test_a_claim_needs_no_deployment_of_its_own():
    assert not dead([factories.finding(**CLAIM, scope={"backend": "sglang"})], [factories.deployment()])


@pytest.mark.parametrize(
    ("asked", "patience_s"),
    [
        ({"question": "boots"}, 100 + 10 + 32),
        ({"question": "served", "ask": {"prompt_tokens": 5000, "output_tokens": 1}}, 100 + 16),
        ({"question": "repeated", "ask": {"prompt_tokens": 5000, "output_tokens": 1}}, 100 + 2 * 16),
        (
            {"question": "ladder", "ask": {"lengths": [1000, 2000, 3000], "output_tokens": 1, "runs": 2}},
            100 + 6 * 11 + 12,
        ),
        (
            {"question": "load", "ask": {"prompt_tokens": 100, "requests": 25, "concurrency": 10, "output_tokens": 1}},
            100 + 3 * 12,
        ),
        ({"question": "accounting"}, 100 + 22 * (10 + 8.193 + 32)),
        ({"question": "accounting", "ask": {"requests": 100, "output_tokens": 1}}, 100 + 100 * (10 + 8.193 + 1)),
        ({"question": "accuracy", "ask": {"task": "t"}, "bounds": {"boot_s": {"unit": "s", "at_most": 1}}}, None),
    ],
)
def test_a_test_may_take_what_its_boot_and_its_requests_may(asked, patience_s):
    slow = {"boot_s": 100, "answer_s": 10, "slowest_prefill_tokens_per_s": 1000, "slowest_decode_tokens_per_s": 1}
    case = Case(factories.finding(**asked), factories.deployment(timeouts=slow))
    assert case.patience_s == (None if patience_s is None else pytest.approx(patience_s))
