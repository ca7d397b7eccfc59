"""Throughput from a log: its meaning, and that it is never used as a rate."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.exchange import Usage
from pytest_longctx.client.logged_throughput import Logged, observe, rates, weigh
from pytest_longctx.diagnosis.signatures import RateLine
from pytest_longctx.miniatures.server import Honest
from tests.unit import factories
from tests.unit.fake_engine import prompts, serving

LOGS = Path(__file__).parents[2] / "data/logs"


def line_of(backend: Vllm | Sglang) -> RateLine:
    assert backend.catalogue.rate is not None
    return backend.catalogue.rate


@pytest.mark.parametrize("backend", [Vllm(), Sglang()])
def test_a_line_with_a_rate_is_known_and_one_that_looks_alike_is_not(backend):
    known = line_of(backend)
    assert re.search(known.regex, known.example)
    assert not re.search(known.regex, known.near_miss)


def test_the_rates_of_real_logs():
    text = (LOGS / "vllm-0.32.0-cpu-64k-serving.log").read_text(encoding="utf-8")
    assert rates(text.splitlines(), line_of(Vllm())) == [Logged(1099.9), Logged(5999.6)]
    text = (LOGS / "sglang-0.5.16-1xh200-128k-serving-and-refusals.log").read_text(encoding="utf-8")
    found = rates(text.splitlines(), line_of(Sglang()))
    assert found[:2] == [Logged(0.33, 11), Logged(0.79, 1)]


def timed(prompt: int, ttft_s: float, cached: int | None = 0):
    return factories.exchange(sent_tokens=prompt, arrivals_s=(50 + ttft_s,), usage=Usage(prompt, 4, cached))


def test_a_prompt_over_the_window_of_a_log_is_an_artefact():
    """60,000 tokens on two CPU cores, as logged."""
    seen = weigh(timed(60_000, 4.34), [Logged(1099.9), Logged(5999.6)])
    assert seen.outcome == "cannot be"
    assert seen.metrics["log_window_s"] == pytest.approx(10.0007, abs=1e-4)
    assert seen.metrics["log_rate_ratio"] == pytest.approx(0.434, abs=1e-3)
    assert seen.said == (
        "artefact: the logged 5,999.6 tokens/s is the prompt divided by a log window of 10 s; the client measured 13,824.9 tokens/s"
    )


def test_a_rate_that_the_client_saw_too_adds_up():
    seen = weigh(timed(60_000, 4.34), [Logged(13_800)])
    assert (seen.outcome, seen.said) == ("adds up", "")


def test_a_chunk_is_divided_by_its_own_gap():
    """SGLang on an H200: one chunk of 8,192 tokens of a million, 45,927.7 tokens/s."""
    seen = weigh(timed(1_000_000, 90.0), [Logged(6519.88, 8192), Logged(45_927.7, 8192)])
    assert seen.outcome == "cannot be"
    assert seen.metrics["log_window_s"] == pytest.approx(0.178, abs=1e-3)


def test_what_was_cached_was_not_read():
    assert weigh(timed(8000, 1.0, cached=7000), [Logged(100)]).metrics["log_window_s"] == 10


@pytest.mark.parametrize(
    ("exchange", "logged", "lack"),
    [
        (timed(100, 1.0), [], "no log line with a rate appeared"),
        (timed(100, 1.0, cached=None), [Logged(10)], "the client's rate was not observed"),
    ],
)
def test_without_both_nothing_is_said(exchange, logged, lack):
    seen = weigh(exchange, logged)
    assert (seen.outcome, seen.said) == (None, f"{lack}; the rates cannot be compared")


class Told(Miniature):
    """A miniature that logs its line at once."""

    catalogue = Vllm().catalogue.model_copy(update={"rate": line_of(Vllm()).model_copy(update={"window_s": 0})})


class Writes(Honest):
    """Logs prompts like vLLM, over ten seconds."""

    log: Path

    def account(self, request, ttft_s):
        super().account(request, ttft_s)
        with self.log.open("a", encoding="utf-8") as file:
            print(f"Engine 000: Avg prompt throughput: {request.tokens / 10:.1f} tokens/s, Avg", file=file)


def test_a_live_log_is_read_from_where_the_request_began(tmp_path):
    mind = Writes()
    mind.log = tmp_path / "log"
    mind.log.write_text("Engine 000: Avg prompt throughput: 99999.0 tokens/s, Avg\n", encoding="utf-8")
    with serving(mind, Told()) as server:
        seen = observe(replace(server, log=mind.log), prompts()(5000), 2)
    assert (seen.outcome, seen.metrics["logged_tokens_per_s"]) == ("cannot be", 500)
    assert seen.metrics["log_window_s"] == 10


def test_a_request_that_is_refused_is_the_evidence(tmp_path):
    (tmp_path / "log").touch()
    with serving(Honest(max_model_len=100), Told()) as server:
        seen = observe(replace(server, log=tmp_path / "log"), prompts()(5000), 2)
    assert seen.outcome == "refuses"


@pytest.mark.parametrize("backend", [Told(), OpenAI()])
def test_a_log_that_cannot_be_seen_shows_nothing(backend):
    with serving(Honest(), backend) as server:
        seen = observe(server, prompts()(5000), 2)
    assert seen.outcome is None
    assert "the server's log cannot be read" in seen.said
