"""One request over HTTP, to a server with the observed responses of a real one."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.request import StreamedRequest, ask
from pytest_longctx.client.server import Server
from pytest_longctx.processes.progress import no_progress
from pytest_longctx.prompts import Prompt, PromptFactory
from pytest_longctx.prompts.text import Chat
from tests.unit import factories

USAGE = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}}
CHAT = Chat(({"role": "user", "content": "say 'so'"},), 12, 0, "k")


@contextmanager
def speaking(events: Sequence[dict[str, Any]]) -> Iterator[tuple[Server, list[tuple[str, Any]]]]:
    """A server that answers every request with *events*, and the requests it received."""
    asked: list[tuple[str, Any]] = []

    class Speaker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in (*map(json.dumps, events), "[DONE]"):
                self.wfile.write(f"data: {event}\n\n".encode())

        def log_message(self, *_: object) -> None:
            """Suppress the log."""

    with HTTPServer(("127.0.0.1", 0), Speaker) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{httpd.server_port}"
            yield (
                Server(url, "m", OpenAI(), factories.deployment(backend="openai"), "url", local=True, attached=True),
                asked,
            )
        finally:
            httpd.shutdown()
            thread.join()


def answered(prompt: Prompt | Chat, *choices: dict[str, Any]) -> tuple[Exchange, tuple[str, Any]]:
    with speaking([*({"choices": [choice]} for choice in choices), USAGE]) as (server, asked):
        exchange = ask(server, prompt, 3)
    return exchange, asked[0]


def test_a_chat_goes_to_its_own_endpoint_and_its_reasoning_counts():
    exchange, (path, body) = answered(
        CHAT,
        {"delta": {"role": "assistant", "content": ""}},
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"content": " yes"}},
        {"delta": {"content": ""}},
        {"delta": {}, "finish_reason": "stop"},
    )
    assert (path, body["messages"]) == ("/v1/chat/completions", list(CHAT.messages))
    assert "prompt" not in body
    assert (exchange.ending, exchange.text, len(exchange.arrivals_s)) == ("complete", "hm yes", 3)


def test_ids_go_to_completions():
    ids = PromptFactory(1, "k", (5, 90))(12)
    exchange, (path, body) = answered(ids, {"text": "a"}, {"text": ""}, {"text": "", "finish_reason": "length"})
    assert (path, body["prompt"]) == ("/v1/completions", ids.ids.tolist())
    assert (exchange.text, len(exchange.arrivals_s)) == ("a", 2)


@pytest.mark.parametrize("stops", [False, True])
def test_an_answer_may_end_where_the_model_ends_it(stops):
    with speaking([{"choices": [{"text": "a"}]}, USAGE]) as (server, asked):
        ask(replace(server, backend=Vllm(), stops=stops), PromptFactory(1, "k", (5, 90))(12), 3)
    assert asked[0][1]["ignore_eos"] is not stops


def test_a_server_without_that_field_is_not_sent_it():
    with speaking([{"choices": [{"text": "a"}]}, USAGE]) as (server, asked):
        ask(replace(server, stops=True), PromptFactory(1, "k", (5, 90))(12), 3)
    assert "ignore_eos" not in asked[0][1]


@pytest.mark.parametrize("choice", [{"delta": {"role": "assistant"}}, {"delta": {"content": None}}, {"text": None}])
def test_a_chunk_without_content_is_no_token(choice):
    exchange, _ = answered(CHAT, choice)
    assert exchange.ttft_s is None


def silent(tokens: int | None) -> Exchange:
    """Return an immediate answer without text, with *tokens* in its usage record."""
    end = {"choices": [{"text": "", "finish_reason": "length"}]}
    with speaking([end, {"usage": {"completion_tokens": tokens}}]) as (server, _):
        return ask(server, CHAT, 3)


def test_a_single_token_without_text_arrives_with_the_end_of_the_answer():
    exchange = silent(1)
    assert (exchange.ending, len(exchange.arrivals_s), exchange.text) == ("complete", 1, "")
    assert exchange.ttft_s is not None


@pytest.mark.parametrize("tokens", [0, 2, None])
def test_where_it_was_not_one_token_nobody_saw_the_first(tokens):
    """Two tokens may have arrived much earlier in chunks of another kind, such as a tool call."""
    exchange = silent(tokens)
    assert (exchange.ending, exchange.ttft_s) == ("complete", None)


@pytest.mark.parametrize(("answers_after_s", "ending"), [(0.05, "server error"), (30.0, "engine dead")])
def test_an_engine_whose_health_is_dead_may_still_say_why(monkeypatch, answers_after_s, ending):
    async def stream(*_: object) -> str:
        await asyncio.sleep(answers_after_s)
        return "server error"

    async def watch(*_: object) -> tuple[str, str]:
        return "engine dead", "the server accepts connections, but its engine is dead"

    monkeypatch.setattr(StreamedRequest, "_stream", stream)
    server = Server("http://there", "m", OpenAI(), factories.deployment(), "url", attached=True)
    request = StreamedRequest(server, CHAT, 1, 60.0, no_progress)
    found, _ = asyncio.run(request._race(None, SimpleNamespace(watch=watch)))  # type: ignore[arg-type]
    assert found == ending
