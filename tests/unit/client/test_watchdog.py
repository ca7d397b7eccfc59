"""Decision to continue or end a wait: minutes of a server's gauges, replayed with a simulated clock."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_longctx.backends import Backend
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.client.watchdog import Admission, MetricsPoller, Watchdog
from pytest_longctx.processes.progress import no_progress
from tests.unit import factories

TEN_MINUTES_S = 600.0
Scene = Callable[[float], dict[str, float] | None]
"""Contents of the page at a time, figures by slot; ``None`` for an unreachable page."""


class TimeIsUp(Exception):  # noqa: N818 - the replay is over, and nothing was found
    """The wait was not ended before its deadline."""


class Replay:
    """A server whose metrics follow a scene, and the simulated clock."""

    def __init__(self, scene: Scene, backend: Backend, dead_from_s: float = 1e9) -> None:
        self.scene, self.backend, self.dead_from_s = scene, backend, dead_from_s
        self.now_s = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s > TEN_MINUTES_S:
            raise TimeIsUp

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(503 if self.now_s >= self.dead_from_s else 200)
        figures = self.scene(self.now_s)
        if figures is None:
            return httpx.Response(500)
        names = self.backend.metrics
        return httpx.Response(200, text="".join(f"{getattr(names, slot)[0]} {is_}\n" for slot, is_ in figures.items()))

    def watch(self) -> tuple[str, str]:
        """Return how the wait for a first token ended, with the default timeouts of a deployment."""

        async def run() -> tuple[str, str]:
            transport = httpx.MockTransport(self.answer)
            async with httpx.AsyncClient(transport=transport, base_url="http://there") as side:
                path = self.backend.health if self.backend.dies_unhealthy else None
                gauges = MetricsPoller(side, self.backend.metrics, path, clock=lambda: self.now_s)
                server = Server("http://there", "m", self.backend, factories.deployment(), "url", attached=True)
                # Long enough that it may be read in one silent step of half an hour.
                lookout = Watchdog(server, gauges, sleep=self.sleep, prompt_tokens=1_000_000)
                return await lookout.watch("", lambda: "waiting", 1e6, no_progress)

        return asyncio.run(run())


def scene(**figures: float) -> Scene:
    """Return constant figures."""
    return lambda _: {"running": 0, "waiting": 0, "kv_usage": 0.0, "prompt_tokens": 7, **figures}


NEVER_SCHEDULED: dict[str, Scene] = {
    "from the first": scene(waiting=1),
    "with others that come and give up": lambda now_s: {"running": 0, "waiting": 1 + now_s // 2, "kv_usage": 0.0},
    "on a page that comes every other time": lambda now_s: scene(waiting=1)(now_s) if now_s % 2 else None,
    "without a gauge of the cache": lambda _: {"running": 0, "waiting": 1},
}


@pytest.mark.parametrize("name", NEVER_SCHEDULED)
@pytest.mark.parametrize("backend", [Vllm(), Sglang()], ids=lambda each: each.name)
def test_a_request_that_is_never_scheduled_is_found_in_less_than_fifteen_seconds(name, backend):
    replay = Replay(NEVER_SCHEDULED[name], backend)
    ending, why = replay.watch()
    assert (ending, replay.now_s < 15) == ("not admitted", True)
    assert "requests waited and none ran" in why


def test_where_somebody_holds_the_cache_it_takes_a_minute():
    replay = Replay(scene(waiting=1, kv_usage=0.2), Vllm())
    ending, why = replay.watch()
    assert (ending, 60 <= replay.now_s < 75) == ("not admitted", True)
    assert why == "for 61.0 s requests waited and none ran with 20.0% of the KV cache in use, and no counter moved"


WELL: dict[str, tuple[Backend, Scene]] = {
    "a silent prefill": (Vllm(), scene(running=1, kv_usage=0.0)),
    "one that holds its cache": (Vllm(), scene(running=1, kv_usage=0.4)),
    "one with others behind it": (Vllm(), scene(running=1, waiting=9)),
    "one that moves the cache": (
        Vllm(),
        lambda now_s: {"running": 1, "waiting": 0, "kv_usage": now_s / TEN_MINUTES_S, "prompt_tokens": 7},
    ),
    # A request in chunked prefill is in neither gauge, and a hundredth of the pool is more than three chunks of five seconds.
    "SGLang's, with one in its queue": (
        Sglang(),
        lambda now_s: {"running": 0, "waiting": 1, "kv_usage": 0.01 + now_s // 16 / 100, "prompt_tokens": 7},
    ),
    # From its log of 2026-11-21: a hundredth of a pool of 67 million tokens is 82 chunks, which took 200 s in a long prompt.
    "SGLang's, in a pool so large that its usage does not move for minutes": (
        Sglang(),
        lambda now_s: {"running": 0, "waiting": 1, "kv_usage": 0.07, "kv_used_tokens": 4_000_000 + now_s // 2 * 8192},
    ),
    "nobody is there": (Vllm(), scene()),
    "a page without gauges": (Vllm(), lambda _: {"prompt_tokens": 7}),
    "no page at all": (Vllm(), lambda _: None),
    "others are answered meanwhile": (
        Vllm(),
        lambda now_s: {"running": 0, "waiting": 1, "kv_usage": 0.0, "generated_tokens": now_s // 5},
    ),
    "it waits nine seconds, and runs for one": (
        Vllm(),
        lambda now_s: {"running": float(now_s % 10 >= 9), "waiting": 1, "kv_usage": 0.0, "prompt_tokens": 7},
    ),
}


@pytest.mark.parametrize("name", WELL)
def test_ten_minutes_without_a_sign_are_no_alarm(name):
    backend, message = WELL[name]
    replay = Replay(message, backend)
    with pytest.raises(TimeIsUp):
        replay.watch()


def test_a_health_that_turns_red_is_a_dead_engine_where_that_is_what_it_means():
    replay = Replay(scene(running=1), Vllm(), dead_from_s=20)
    ending, why = replay.watch()
    assert (ending, replay.now_s < 25) == ("engine dead", True)
    assert why == "the server accepts connections, but its engine is dead"


def test_sglangs_health_is_red_during_a_long_chunk_and_means_nothing():
    with pytest.raises(TimeIsUp):
        Replay(scene(kv_usage=0.3), Sglang(), dead_from_s=20).watch()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 0.5])), max_size=40))
def test_it_is_never_said_of_a_server_that_ran_a_moment_ago(looks):
    rule, last_ran_s = Admission(limit_s=3), -1.0
    for now_s, (running, waiting, usage) in enumerate(looks):
        why = rule.look(now_s, ServerMetrics(answered=True, running=running, waiting=waiting, kv_usage=usage))
        if running or not waiting:
            last_ran_s = now_s
        assert why is None or now_s - last_ran_s > 3


def test_the_longest_stretch_is_kept():
    rule = Admission(limit_s=100)
    waits, runs = ServerMetrics(answered=True, running=0, waiting=1), ServerMetrics(answered=True, running=1, waiting=0)
    assert rule.waited_s is None
    for now_s in range(8):
        rule.look(now_s, waits)
    rule.look(8, runs)
    rule.look(9, waits)
    rule.look(11, waits)
    assert rule.waited_s == 7
