"""Report about a server after a request that may exceed its capacity."""

import pytest

from pytest_longctx.client import recovery
from pytest_longctx.client.exchange import Refusal, Usage
from tests.unit import factories

HUNG = factories.exchange(
    ending="not admitted",
    arrivals_s=(),
    usage=Usage(),
    detail="for 12 s requests waited; /health returns 200",
    health=200,
).observe()


def test_a_small_request_that_is_answered_says_that_the_server_has_recovered():
    seen = recovery.after(HUNG, factories.exchange(sent_tokens=8))
    assert (seen.outcome, seen.kind) == ("is not admitted", "hang-admission")
    assert (seen.metrics["recovered"], seen.metrics["canary_s"], seen.metrics["health_status"]) == (1, 4, 200)
    assert seen.said == (
        "for 12 s requests waited; /health returns 200; "
        "a request of 8 tokens after it was answered in 4.00 s: the server has recovered"
    )


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (
            {"ending": "deadline", "detail": "not finished within 30 s; /health returns 200"},
            "(deadline: not finished within 30 s; ",
        ),
        ({"ending": "refused", "refusal": Refusal(503, "paused")}, "(refused: paused)"),
        ({"ending": "disconnected", "detail": "ConnectError"}, "(disconnected: ConnectError)"),
    ],
)
def test_one_that_is_not_says_that_it_has_not(canary, words):
    seen = recovery.after(factories.exchange().observe(), factories.exchange(sent_tokens=8, **canary))
    assert (seen.outcome, seen.metrics["recovered"], seen.metrics["canary_s"]) == ("serves", 0, None)
    assert f"a request of 8 tokens after it was not answered {words}" in seen.said
    assert seen.said.endswith("the server has not recovered")
