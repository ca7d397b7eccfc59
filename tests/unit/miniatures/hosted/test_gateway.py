"""A gateway before the honest API changes nothing, or what its options say."""

import threading

import httpx
import pytest

from pytest_longctx.miniatures.hosted.gateway import Gateway
from pytest_longctx.miniatures.hosted.latency import Latency
from pytest_longctx.miniatures.hosted.wire import serving
from tests.unit.miniatures.hosted.caller import Caller, streamed


@pytest.fixture
def before(serve):
    """``before(buffers=True)``: an honest API and a caller that asks it through a gateway."""
    with_exit = []

    def start(latency=None, **options):
        engine = serve(latency=latency or Latency())
        gateway = serving(Gateway(engine.url, **options))
        with_exit.append(gateway)
        return engine, Caller(gateway.__enter__(), engine.api)

    yield start
    for gateway in with_exit:
        gateway.__exit__(None, None, None)


def without_number(body):
    return {name: value for name, value in body.items() if name not in {"id", "created"}}


def test_a_plain_gateway_changes_nothing(before):
    engine, caller = before()
    prompt = "Count from 1 to 9."
    engine.chat(prompt)
    assert without_number(caller.chat(prompt).json()) == without_number(engine.chat(prompt).json())
    ours, theirs = caller.stream(prompt), engine.stream(prompt)
    assert ours[-1] == theirs[-1] == "[DONE]"
    assert [without_number(row) for row in ours[:-1]] == [without_number(row) for row in theirs[:-1]]
    assert caller.chat(" the" * 5000).json() == engine.chat(" the" * 5000).json()
    assert caller.chat("Hi", key="wrong").status_code == 401
    listing = httpx.get(f"{caller.url}/v1/models", headers={"Authorization": "Bearer right"}).json()
    assert listing["data"][0]["id"] == "miniature"


def test_a_body_over_the_limit_gets_a_page(before):
    _, caller = before(body_limit_bytes=2000)
    assert caller.chat("Hi").status_code == 200
    refused = caller.chat(" the" * 600)
    assert refused.status_code == 413
    assert "nginx" in refused.text


def test_a_repeating_gateway_makes_the_server_read_twice(before):
    engine, caller = before(repeats=True)
    assert caller.text("Count from 1 to 3.") == "1, 2, 3"
    assert streamed(caller.stream("Count from 1 to 3.")) == "1, 2, 3"
    assert len(engine.api.received) == 4


def test_a_long_silence_ends_with_504(before):
    engine, caller = before(latency=Latency("fixed:30"), silence_s=0.3)
    assert caller.chat("Hi").status_code == 504
    engine.api.latency.stopped.set()


def test_a_server_that_is_gone_is_a_502():
    with serving(Gateway("http://127.0.0.1:9")) as url:
        assert httpx.post(f"{url}/v1/chat/completions", json={}).status_code == 502


@pytest.mark.parametrize("buffers", [False, True])
def test_a_buffering_gateway_passes_a_stream_on_at_its_end(before, buffers):
    arrived, made, early = threading.Event(), [], []
    engine, caller = before(buffers=buffers)

    def wait(tokens):
        made.append(tokens)
        if len(made) == 20:
            early.append(arrived.wait(1))

    engine.api.latency.after_tokens = wait
    body = {"model": "miniature", "messages": [{"role": "user", "content": "Count from 1 to 900."}], "max_tokens": 40}
    headers = {"Authorization": "Bearer right"}
    url = f"{caller.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body | {"stream": True}, headers=headers) as reply:
        for _ in reply.iter_lines():
            arrived.set()
    assert early == [not buffers]
