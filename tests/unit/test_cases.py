import pytest

from pytest_longctx.cases import dead
from tests.unit import make

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
    finding = make.finding(scope=scope)
    assert dead([finding], [make.deployment(**deployment)]) == ([finding] if is_dead else [])


def test_a_claim_needs_no_deployment_of_its_own():
    assert not dead([make.finding(**CLAIM, scope={"backend": "sglang"})], [make.deployment()])
