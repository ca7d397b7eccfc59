"""Reset of a prefix cache, and verification of the reset."""

import pytest

from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client.prefix_cache import WITNESS_TOKENS, empty, observe, reset
from pytest_longctx.errors import CacheError
from pytest_longctx.miniatures.faults import ForgetsCache, HidesCounters, KeepsCache
from pytest_longctx.miniatures.server import Honest
from tests.unit.fake_engine import prompts, serving


class Busy(Honest):
    """Refuses twice while it still holds blocks, like vLLM."""

    refusals: int = 0

    def reset(self) -> bool:
        self.refusals += 1
        return self.refusals > 2 and super().reset()


@pytest.mark.parametrize("mind", [Honest(), Busy(), ForgetsCache()])
def test_a_cache_that_is_empty_is_believed(mind):
    with serving(mind) as server:
        empty(server, prompts()(WITNESS_TOKENS))


@pytest.mark.parametrize(
    ("mind", "seen"), [(KeepsCache(), "cached tokens 2,032"), (HidesCounters(), "cached tokens not reported")]
)
def test_a_cache_of_which_that_is_only_said_is_not(mind, seen):
    with serving(mind) as server, pytest.raises(CacheError, match=seen):
        empty(server, prompts()(WITNESS_TOKENS))


def test_a_backend_without_such_an_endpoint_says_so():
    with serving(Honest(), OpenAI()) as server, pytest.raises(CacheError, match="openai has no endpoint"):
        empty(server, prompts()(WITNESS_TOKENS))


def test_a_reset_that_never_comes_is_refused(monkeypatch):
    monkeypatch.setattr("pytest_longctx.client.prefix_cache._FREE_S", 0.2)
    monkeypatch.setattr(Busy, "reset", lambda _: False)
    with serving(Busy()) as server:
        refusal = reset(server)
        seen = observe(server, prompts()(100), 2)
    assert refusal is not None
    assert (refusal.status, seen.outcome) == (200, "refuses")


def test_what_the_prompt_found_before_and_after_is_the_evidence():
    with serving(Honest()) as server:
        seen = observe(server, prompts()(100), 2)
    assert (seen.metrics["cached_share_before"], seen.metrics["cached_tokens"]) == (0.96, 0)


def test_nothing_is_seen_where_it_cannot_be_asked_for():
    with serving(Honest(), OpenAI()) as server:
        seen = observe(server, prompts()(100), 2)
    assert (seen.outcome, seen.said) == (
        None,
        "cache reset: the backend openai has no endpoint that resets its prefix cache",
    )


def test_a_server_without_the_endpoint_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("pytest_longctx.client.prefix_cache._FREE_S", 3600.0)
    monkeypatch.setattr("pytest_longctx.miniatures.server.Handler.do_POST", lambda self: self._send(404, b"{}"))
    with serving(Honest()) as server:
        refusal = reset(server)
    assert refusal is not None
    assert refusal.status == 404
