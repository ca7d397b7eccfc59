"""Attacks on the wire of a certificate: each answer ends in time, in flat memory and by a known word; no counter or header breaks it."""

import json
import tracemalloc
import unicodedata
from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_longctx.certificate import calibration, time_checks, wire
from pytest_longctx.certificate.budget import Budget
from pytest_longctx.certificate.dialects import known
from pytest_longctx.certificate.examination import Examination, list_models
from pytest_longctx.certificate.reply import Arrived, Ending
from pytest_longctx.certificate.wire import Wire
from pytest_longctx.errors import LongctxError
from tests.hostile import EXAMPLES
from tests.hostile.servers import (
    METRICS_ATTACKS,
    PAGE_ATTACKS,
    STREAM_ATTACKS,
    Hostile,
    elapsed,
    events,
    just,
    listening,
    peak_mib,
    stream,
    whole,
)
from tests.hostile.test_parsers import HOSTILE_TEXT, JSON

PEAK_MIB = 150
SMALL = (("user", "Hello. Reply with one word."),)
COMPLETIONS = next(each for each in known() if each.id == "completions")
SLOW = {
    "silence": "no answer",
    "drip-headers": "no answer",
    "informational-flood": "no answer",
    "drip-body": "cut",
    "drip-of-comments": "cut",
    "drip-error": "cut",
}
"""Attacks that only the deadline ends."""


def reply_to(attack, *, streamed, deadline_s=20.0):
    grown_mib = peak_mib()
    with listening(Hostile({"stream": attack, "token": attack})) as url:
        asked = Wire(url, Budget(tokens=100_000), deadline_s=deadline_s, sleep=lambda _: None)
        reply = asked.ask(COMPLETIONS, SMALL, "llama", 4, stream=streamed)
        asked.close()
    assert grown_mib() < PEAK_MIB
    return reply


@pytest.mark.timeout(60)
@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "page"])
@pytest.mark.parametrize("name", [*STREAM_ATTACKS, *PAGE_ATTACKS])
def test_every_answer_has_an_ending(name, streamed):
    attack = PAGE_ATTACKS[name] if name in PAGE_ATTACKS else STREAM_ATTACKS[name][0]
    reply = reply_to(attack, streamed=streamed, deadline_s=0.5 if name in SLOW else 20.0)
    assert reply.ending in get_args(Ending)
    assert reply.ending == SLOW.get(name, reply.ending)
    assert all(letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cs", "Cf") for letter in reply.said)
    assert not any(line.lstrip().startswith(("::", "##")) for line in reply.said.splitlines())


@pytest.mark.timeout(60)
def test_a_stream_has_its_time_again_with_each_text_and_no_more_than_four_times_in_all(monkeypatch):
    from tests.hostile.servers import CHUNK, STOPPED

    def slowly():
        yield stream()
        while not STOPPED.wait(0.2):
            yield events(CHUNK, done=False)

    took_s = elapsed()
    reply = reply_to(slowly, streamed=True, deadline_s=1.0)
    assert reply.ending == "cut"
    assert "was not complete" in reply.error
    assert len(reply.arrivals_s) > 2
    assert took_s() < 40


@pytest.mark.parametrize("name", ["gzip-stream", "ping", "comments"])
def test_a_sound_stream_is_served(name):
    reply = reply_to(STREAM_ATTACKS[name][0], streamed=True)
    assert (reply.ending, reply.text) == ("served", " w")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [*PAGE_ATTACKS, *METRICS_ATTACKS])
@pytest.mark.parametrize("page", ["models", "metrics"])
def test_a_page_is_read_or_left_out(page, name, monkeypatch):
    monkeypatch.setattr(wire, "_PAGE_S", 0.5)
    grown_mib = peak_mib()
    with listening(Hostile({page: {**PAGE_ATTACKS, **METRICS_ATTACKS}[name]})) as url:
        exam = Examination(Wire(url, Budget(tokens=1000)))
        if page == "metrics":
            count = time_checks._counter(exam)
            assert count is None or count >= 0
        else:
            list_models(exam)
            assert exam.listed is None or exam.listed > 0
        exam.wire.close()
    assert grown_mib() < PEAK_MIB


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "page",
    [
        "prompt_tokens_total{\n" * 500_000,
        "prompt_tokens_total 1.e+.\n",
        "prompt_tokens_total ....\n",
        "prompt_tokens_total 1e999\n",
        "a" * 1_000_000,
    ],
    ids=["open-labels", "dots", "only-dots", "infinite", "long-word"],
)
def test_a_counter_is_a_number_or_none(page):
    with listening(Hostile({"metrics": just(whole(page, 200, "text/plain"))})) as url:
        exam = Examination(Wire(url, Budget(tokens=1000)))
        assert time_checks._counter(exam) is None
        exam.wire.close()


@pytest.mark.parametrize("count", [0, 1, 2**53])
def test_a_server_that_counts_all_prompts_alike_is_sent_no_text_without_end(count):
    rng = np.random.default_rng(1)
    made = calibration.calibrate(rng, lambda turns, most: count, "usage")
    assert made is not None
    tracemalloc.start()
    try:
        made.turns(rng, 100_000)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


TEXT = HOSTILE_TEXT | st.sampled_from(
    ["http://[", "//[::1", "https://host:x", "Wed, 21 Oct 99999 07:28:00 GMT", "-1", "1e999"]
)


@settings(deadline=None, max_examples=EXAMPLES)
@given(TEXT, TEXT)
@example("http://h", "http://[")
@example("http://h", "//[v1.x")
def test_headers_of_a_server_are_read_or_left_out(base, text):
    assert wire.other_host("http://h", text) in (True, False)
    wait_s = wire._retry_after(text)
    assert wait_s is None or wait_s >= 0


@settings(deadline=None, max_examples=EXAMPLES)
@given(st.lists(JSON, max_size=3), st.sampled_from(known()), st.booleans())
def test_any_page_is_read_in_any_dialect(pages, dialect, streamed):
    reading = Arrived(dialect, 16)
    for page in pages:
        reading.page(json.loads(json.dumps(page)), streamed=streamed, now_s=0.0)
    assert all(type(word) is str for word in reading.words)


def test_no_attack_raises_another_error_than_the_packages():
    """The checks as a whole, on a server whose every answer is an array."""
    from pytest_longctx.certificate import run

    attacks = {"models": PAGE_ATTACKS["array"], "token": PAGE_ATTACKS["array"], "stream": PAGE_ATTACKS["array"]}
    with listening(Hostile(attacks)) as url:
        wanted = run.Wanted(url, "llama", 4096, Budget(tokens=50_000), seed=1, deadline_s=2.0)
        try:
            assert run.certify(wanted, wanted.wire()).exit_status in (1, 2)
        except LongctxError as problem:
            assert "does not answer in any known dialect" in str(problem)  # noqa: PT017
