"""Requests to a slow and to a stalled miniature: the first is never classified as a hang, the second soon."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from pytest_longctx.backends import Backend
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client import recovery
from pytest_longctx.client import request as client_request
from pytest_longctx.client.server import Server
from pytest_longctx.findings.verdicts import judge
from pytest_longctx.miniatures.request_faults import Crawls, CrawlsInPrefill, StallsHalfway, StallsInPrefill
from pytest_longctx.miniatures.server import Honest
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving

STALL_S = 0.8


@contextmanager
def patient(mind: Honest, backend: Backend | None = None, **timeouts: float) -> Iterator[Server]:
    """A server of *mind* with these timeouts."""
    given: dict[str, Any] = {"stall_s": STALL_S, "slowest_prefill_tokens_per_s": 1e6, **timeouts}
    with serving(mind, backend) as server:
        yield replace(server, deployment=factories.deployment(backend="miniature", timeouts=given))


@pytest.mark.parametrize("mind", [StallsHalfway, StallsInPrefill])
def test_a_stall_is_a_hang_soon_after_the_stated_time(mind):
    with patient(mind(crawl_s=0.1)) as server:
        began_s = time.monotonic()
        exchange = client_request.ask(server, prompts()(1000), 20)
        took_s = time.monotonic() - began_s
    assert (exchange.ending, exchange.observe().outcome) == ("stalled", "hangs")
    assert STALL_S < took_s < 6
    assert "(limit " in exchange.detail
    assert "/health returns 200" in exchange.detail


@pytest.mark.parametrize("mind", [Crawls, CrawlsInPrefill])
def test_a_crawl_of_many_times_the_stated_time_is_served(mind):
    with patient(mind(crawl_s=0.25)) as server:
        exchange = client_request.ask(server, prompts()(1000), 12)
    assert (exchange.ending, exchange.observe().outcome) == ("complete", "serves")
    assert exchange.ended_s - exchange.started_s > 2.5 > 3 * STALL_S


def test_a_crawl_that_is_not_over_in_time_is_unmeasured_and_says_what_it_would_take():
    with patient(Crawls(crawl_s=0.1), answer_s=1.5, slowest_decode_tokens_per_s=1e6) as server:
        exchange = client_request.ask(server, prompts()(1000), 100)
    seen = exchange.observe()
    assert (exchange.ending, seen.outcome, seen.kind) == ("unfinished", None, "too-slow")
    verdict = judge(factories.finding(question="served", ask={"prompt_tokens": 1000, "output_tokens": 100}), seen)
    assert verdict.word == "unmeasured"
    assert verdict.why.startswith("too slow here: ")
    assert "chunks/s of the answer, would take 1" in verdict.why
    assert "budget 1.50 s" in verdict.why
    assert "timeouts.answer_s" in verdict.why


def test_a_prefill_that_is_not_over_in_time_is_told_in_tokens_where_the_pool_is_known():
    with patient(CrawlsInPrefill(crawl_s=0.3), answer_s=1.5, stall_s=9, slowest_decode_tokens_per_s=1e6) as server:
        known = replace(server, figures={"kv_cache_tokens": 100_000.0})  # a thousandth of it for each step: 100 tokens
        exchange = client_request.ask(known, prompts()(1000), 1)
    assert exchange.ending == "unfinished"
    assert "tokens/s, would take" in exchange.detail


def test_a_silence_too_short_for_a_hang_is_none():
    with patient(StallsHalfway(), stall_s=30, answer_s=1, slowest_decode_tokens_per_s=1e6) as server:
        exchange = client_request.ask(server, prompts()(1000), 4)
    assert (exchange.ending, exchange.observe().outcome) == ("unfinished", None)


def test_where_nothing_can_be_watched_the_deadline_is_the_limit_and_that_is_said():
    with patient(StallsInPrefill(crawl_s=0.1), OpenAI(), stall_s=0.3) as server:
        exchange = client_request.ask(server, prompts()(1000), 4, deadline_s=2)
    assert (exchange.ending, exchange.observe().outcome) == ("deadline", "hangs")
    assert exchange.detail.startswith(
        "not finished within 2 s; 0 chunks received; progress cannot be observed (no metrics, no log)"
    )
    assert exchange.ended_s - exchange.started_s > 1.9


def test_the_log_of_a_server_without_metrics_tells_that_it_works(tmp_path):
    """The log of a working server shows progress; the log of a stalled server does not."""
    log = tmp_path / "log"
    log.write_text("a boot\n")

    class Logs(StallsInPrefill):
        def read(self, request: Any, gone: Any) -> None:
            for step in range(8):
                time.sleep(0.2)
                with log.open("a") as out:
                    out.write(f"step {step}\n")
            if self.stops_after < 10:
                super().read(request, gone)

    for stops_after, ending in ((5, "stalled"), (10, "complete")):
        mind = Logs(crawl_s=0.0)
        mind.stops_after = stops_after
        with patient(mind, OpenAI(), stall_s=0.6, answer_s=20, slowest_decode_tokens_per_s=1e6) as server:
            exchange = client_request.ask(replace(server, log=log), prompts()(1000), 4)
        assert exchange.ending == ending


def test_of_a_server_that_is_still_at_work_it_is_not_known_whether_it_has_recovered():
    busy = factories.exchange(ending="unfinished", detail="too slow here: 5 tokens/s")
    assert recovery.after(factories.exchange().observe(), busy).metrics["recovered"] is None
    assert (
        recovery.after(factories.exchange().observe(), factories.exchange(ending="stalled")).metrics["recovered"] == 0
    )
