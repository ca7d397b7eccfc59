"""A client that disconnects, tested with miniatures in this process."""

import time
from threading import Event

from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.backends.sglang import Sglang as SglangBackend
from pytest_longctx.client import cancellation
from pytest_longctx.client.cancellation import disconnect
from pytest_longctx.miniatures.faults import ReadsOn
from pytest_longctx.miniatures.server import READ_FROM_TOKENS, Honest
from pytest_longctx.miniatures.sglang import CHUNK_TOKENS, Sglang
from tests.unit.fake_engine import prompts, serving


def test_an_honest_server_stops_and_has_not_counted_the_prompt():
    with serving(mind := Honest(read_s=20)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert (seen.outcome, seen.metrics["abandoned_tokens"]) == ("serves", 0)
    assert 0 < (seen.metrics["stopped_s"] or 0) < 20  # minimum time of a continued prefill
    assert mind.running == 0
    assert mind.prompt_tokens == 4 * cancellation.CANARY_TOKENS


def test_a_server_that_is_never_done_is_said_to_take_as_long_as_it_was_watched(monkeypatch):
    monkeypatch.setattr(cancellation, "PATIENCE_S", 0.3)
    with serving(mind := ReadsOn(read_s=2)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
        assert mind.running == 1
    assert (seen.metrics["stopped_s"] or 0) > 0.3


class LeavesLate(Honest):
    """Counts answered canaries as running for half a second, or until a long prompt arrives."""

    arrived = Event()

    def admit(self, request):
        if request.tokens >= READ_FROM_TOKENS:
            self.arrived.set()
            while self.running:
                time.sleep(0.001)
        super().admit(request)

    def leave(self, request):
        self.arrived.wait(0.5)
        super().leave(request)


def test_a_canary_that_is_still_counted_as_running_does_not_hide_the_prompt():
    with serving(mind := LeavesLate(read_s=2)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert (seen.outcome, seen.metrics["abandoned_tokens"]) == ("serves", 0)
    assert mind.prompt_tokens == 4 * cancellation.CANARY_TOKENS


class AnswersAtOnce(Honest):
    """No look at its gauges finds a prompt in work, on a busy machine either."""

    @property
    def running(self):
        return 0

    @running.setter
    def running(self, count):
        pass


def test_prompts_that_are_answered_at_once_show_nothing():
    with serving(AnswersAtOnce(read_s=0)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert seen.outcome is None
    assert seen.said == "3 prompts of 50,000 tokens were answered before the client could disconnect"


def test_a_server_without_gauges_is_left_all_the_same_and_says_nothing_of_its_end():
    with serving(mind := Honest(read_s=20), OpenAI()) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert seen.outcome == "serves"
    assert (seen.metrics["stopped_s"], seen.metrics["abandoned_tokens"]) == (None, None)
    assert seen.metrics["canary_delay_s"] is not None
    assert mind.prompt_tokens == 4 * cancellation.CANARY_TOKENS


def test_a_server_that_counts_chunks_is_left_after_one_of_them_though_nothing_runs_by_its_gauges():
    with serving(mind := Sglang(read_s=20), SglangBackend()) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert seen.outcome == "serves"
    assert CHUNK_TOKENS <= (seen.metrics["abandoned_tokens"] or 0) < READ_FROM_TOKENS
    assert 0 < (seen.metrics["stopped_s"] or 0) < 20
    assert mind.prompt_tokens == 4 * cancellation.CANARY_TOKENS


class ReadsOnUncounted(Sglang):
    """Reads the prompt of a disconnected client while its gauges show no request."""

    def read(self, request, gone):
        super().read(request, lambda: False)


def test_a_server_whose_counter_moves_has_not_stopped_whatever_its_gauges_say(monkeypatch):
    monkeypatch.setattr(cancellation, "_QUIET_S", 0.5)
    with serving(ReadsOnUncounted(read_s=0.9), SglangBackend()) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert (seen.metrics["stopped_s"] or 0) > 0.5
    assert seen.metrics["abandoned_tokens"] == READ_FROM_TOKENS


class WedgedByIt(Honest):
    """Answers no request after a client has disconnected."""

    def complaint(self, request):
        return "no more" if self.prompt_tokens >= 3 * cancellation.CANARY_TOKENS and request.tokens < 16 else None


def test_a_canary_that_is_not_answered_is_the_evidence():
    with serving(WedgedByIt(read_s=20)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert (seen.outcome, seen.said) == ("refuses", "12 tokens after a disconnect: no more")


def test_a_prompt_that_is_refused_is_the_evidence():
    with serving(Honest(max_model_len=1000)) as server:
        seen = disconnect(server, prompts(), 2000)
    assert seen.outcome == "refuses"


def test_requests_that_were_there_before_are_not_waited_for():
    with serving(Honest(read_s=20, running=2, waiting=1)) as server:
        seen = disconnect(server, prompts(), READ_FROM_TOKENS)
    assert 0 < (seen.metrics["stopped_s"] or 0) < 20
