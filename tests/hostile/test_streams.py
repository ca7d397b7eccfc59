"""Attacks on the answer of a streamed completion: the right ending, flat memory, clean text."""

import unicodedata

import pytest

from pytest_longctx.client import http_client
from pytest_longctx.client.request import ask
from pytest_longctx.prompts import PromptFactory
from tests.hostile.servers import STREAM_ATTACKS, Hostile, just, listening, peak_mib, server_at, whole

PROMPT = PromptFactory(1, "k", (1000, 100_000))(32)
PEAK_MIB = 150


def asked(name, monkeypatch):
    monkeypatch.setattr(http_client, "ERROR_S", 0.5)
    attack, _ = STREAM_ATTACKS[name]
    deadline_s = 1.0 if name in ("silence", "drip-of-comments") else 20.0
    grown_mib = peak_mib()
    with listening(Hostile({"stream": attack, "metrics": just(whole(b"", 404))})) as url:
        exchange = ask(server_at(url), PROMPT, 4, deadline_s=deadline_s)
    assert grown_mib() < PEAK_MIB
    return exchange


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", STREAM_ATTACKS)
def test_the_ending_is_the_right_word(name, monkeypatch):
    exchange = asked(name, monkeypatch)
    assert exchange.ending == STREAM_ATTACKS[name][1], exchange.detail
    said = exchange.detail + (exchange.refusal.text if exchange.refusal else "")
    assert "Traceback" not in said
    assert all(letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs", "Cf") for letter in said)
    assert not any(line.lstrip().startswith(("::", "##")) for line in said.splitlines())
    assert "##[" not in said


def test_counts_that_no_server_can_have_are_not_observed(monkeypatch):
    usage = asked("odd-counts", monkeypatch).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (None, None)


def test_there_are_as_many_attacks_as_promised():
    from tests.hostile.servers import METRICS_ATTACKS, PAGE_ATTACKS

    assert len(STREAM_ATTACKS) + len(PAGE_ATTACKS) + len(METRICS_ATTACKS) >= 90
