"""Time stamps of network events: what must precede a stamp, and which work must not be repeated for every request."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from select import select
from socket import create_server
from threading import Event, Thread

import httpx

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.backends.openai import OpenAI
from pytest_longctx.client import event_loop
from pytest_longctx.client.request import ask
from pytest_longctx.client.server import Server
from pytest_longctx.client.watchdog import MetricsPoller
from pytest_longctx.prompts import PromptFactory, token_ids
from tests.unit import factories

PROMPT = PromptFactory(1, "k", (5, 90))(12)
USAGE = {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 2}}


@contextmanager
def wired(events: Sequence[Mapping[str, object]]) -> Iterator[tuple[Server, Callable[[], bool]]]:
    """A server that writes *events* at once in one piece, and a flag that is set when a client has connected."""
    connected = Event()
    answer = "".join(f"data: {event}\n\n" for event in (*map(json.dumps, events), "[DONE]"))
    with create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            select([listener], [], [])
            connected.set()
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while b'"stream_options"' not in asked:
                    asked += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + answer.encode())

        thread = Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield (
            Server(url, "m", OpenAI(), factories.deployment(backend="openai"), "url", local=True, attached=True),
            lambda: bool(select([listener], [], [], 0)[0] or connected.is_set()),
        )
        thread.join()


def test_the_start_is_stamped_when_the_first_byte_can_be_sent():
    with wired([{"choices": [{"text": "a"}]}, USAGE]) as (server, connected):
        exchange = ask(server, PROMPT, 2, clock=lambda: float(connected()))
    assert (exchange.ending, exchange.started_s) == ("complete", 1.0)


def test_what_came_in_one_piece_came_at_one_moment():
    """Processing the first event must not delay the stamp of the second."""
    ticks = itertools.count()
    with wired([{"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, USAGE]) as (server, _):
        exchange = ask(server, PROMPT, 2, clock=lambda: float(next(ticks)))
    assert len(exchange.arrivals_s) == 2
    assert len(set(exchange.arrivals_s)) == 1


def test_of_many_that_look_at_the_gauges_one_asks():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, text="vllm:num_requests_running 7\n")

    async def look() -> list[float | None]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://there") as side:
            gauges = MetricsPoller(side, Miniature().metrics)
            return [reading.running for reading in await asyncio.gather(*(gauges.lately() for _ in range(50)))]

    assert asyncio.run(look()) == [7.0] * 50
    assert asked == ["/metrics"]


def test_prompts_of_one_vocabulary_share_the_table_of_their_digits():
    """A table for each prompt's own largest id took a hundred times as long as the prompt."""
    factory = PromptFactory(1, "k", (1000, 100_000))
    token_ids._decimals.cache_clear()
    for _ in range(50):
        assert json.loads(b"".join(factory(128).json_chunks()))
    assert token_ids._decimals.cache_info().misses <= 2


async def _looked() -> list[float | None]:
    async def look() -> float | None:
        return event_loop.woke_s()

    return await asyncio.gather(*(look() for _ in range(50)))


def test_what_is_read_in_one_turn_of_the_loop_came_when_the_turn_began():
    ticks = itertools.count()
    looked = event_loop.run(_looked(), lambda: float(next(ticks)))
    assert len(set(looked)) == 1
    assert looked != [None] * 50
    assert asyncio.run(_looked()) == [None] * 50
