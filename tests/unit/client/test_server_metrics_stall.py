"""Progress and the allowed length of a silence: minutes of a server's gauges and log, replayed."""

import asyncio
from typing import Any

import httpx
import pytest

from pytest_longctx.backends import Backend, named
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client import server_metrics
from pytest_longctx.client.server import Server
from pytest_longctx.client.server_metrics import Pace, ServerMetrics, Stall, moved
from pytest_longctx.client.watchdog import MetricsPoller, Watchdog
from pytest_longctx.diagnosis.log_activity import LogMotion
from pytest_longctx.processes.progress import no_progress
from tests.unit import factories
from tests.unit.client.test_watchdog import Replay, Scene, TimeIsUp

STALL_S = factories.deployment().timeouts.stall_s
FROM_S = 100.0


KEEPS_ALL = {"name": "llama", "shape": "llama-2-7b"}


def watch(
    backend: Backend, scene: Scene, prompt_tokens: int = 100_000, model: dict[str, Any] = KEEPS_ALL
) -> tuple[tuple[str, str], float]:
    """Return how and when the wait for the first token of a prompt ended."""
    replay = Replay(scene, backend)

    async def run() -> tuple[str, str]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(replay.answer), base_url="http://there") as side:
            gauges = MetricsPoller(side, backend.metrics, clock=lambda: replay.now_s)
            server = Server("http://there", "m", backend, factories.deployment(model=model), "url", attached=True)
            lookout = Watchdog(server, gauges, sleep=replay.sleep, prompt_tokens=prompt_tokens)
            await lookout.note_counters()
            return await lookout.watch("", lambda: "waiting", 1e6, no_progress)

    return asyncio.run(run()), replay.now_s


def until(scene_s: float, name: str, every_s: float = 5) -> Scene:
    """One figure changes every five seconds until *scene_s*; one request runs all the time."""
    return lambda now_s: {"running": 1, "waiting": 0, name: min(now_s, scene_s) // every_s / 1000}


@pytest.mark.parametrize("name", ["kv_usage", "kv_used_tokens", "worked_tokens", "prompt_tokens", "generated_tokens"])
def test_a_request_whose_gauges_freeze_has_stalled_in_less_than_a_minute(name):
    (ending, why), over_s = watch(Sglang(), until(FROM_S, name))
    assert ending == "stalled"
    assert FROM_S + STALL_S <= over_s < FROM_S + 60
    assert why.startswith("no progress for 41.0 s (limit 40.0 s); ")


@pytest.mark.parametrize("name", ["kv_usage", "kv_used_tokens", "worked_tokens"])
def test_a_crawl_of_ten_minutes_is_no_stall(name):
    with pytest.raises(TimeIsUp):
        watch(Sglang(), until(1e9, name))


def test_a_count_of_running_requests_is_no_progress():
    def scene(now_s: float) -> dict[str, float]:
        return {"running": 1 + now_s // 5 % 3, "waiting": 0, "kv_usage": min(now_s, FROM_S) / 1000}

    (ending, _), over_s = watch(Vllm(), scene)
    assert (ending, over_s < FROM_S + 60) == ("stalled", True)


def test_until_it_is_seen_to_work_in_steps_a_prompt_may_be_read_in_one():
    """A vLLM without chunked prefill allocates the whole cache at once and shows no progress until the first token."""

    def one_step(now_s: float) -> dict[str, float]:
        return {"running": 1, "waiting": 0, "kv_usage": 0.4 if now_s > 2 else 0.0}

    (ending, _), over_s = watch(Vllm(), one_step, prompt_tokens=100_000)
    assert ending == "stalled"
    assert 240 < over_s < 250  # 40 s, and 100,000 tokens at 500 tokens/s


def test_the_next_step_may_take_three_times_the_longest():
    def slow(now_s: float) -> dict[str, float]:
        return {"running": 1, "waiting": 0, "kv_usage": min(now_s, 180) // 30 / 100}

    (ending, why), over_s = watch(Vllm(), slow)
    assert (ending, 180 + 90 <= over_s < 180 + 95) == ("stalled", True)
    assert why.endswith("the last progress was kv usage")


def test_a_cache_that_no_more_grows_is_no_sign_where_the_model_may_not_keep_every_token():
    """A model with only sliding windows fills its windows; then its cache usage is constant for the rest of the prefill."""
    (ending, _), over_s = watch(Vllm(), until(FROM_S, "kv_usage"), model={"name": "unknown"})
    assert (ending, FROM_S + 240 < over_s < FROM_S + 250) == (
        "stalled",
        True,
    )  # allowed time for a prompt read in one step


def test_a_counter_that_moves_with_every_chunk_needs_no_knowledge_of_the_model():
    (ending, _), over_s = watch(Sglang(), until(FROM_S, "worked_tokens"), model={"name": "unknown"})
    assert (ending, over_s < FROM_S + 60) == ("stalled", True)


@pytest.mark.parametrize("scene", [lambda _: None, lambda _: {"running": 1, "waiting": 0}])
def test_a_server_without_figures_that_move_is_never_said_to_stall(scene):
    with pytest.raises(TimeIsUp):
        watch(Vllm(), scene)


@pytest.mark.parametrize(
    ("before", "now", "what"),
    [
        ({}, {}, None),
        ({"running": 1, "waiting": 2}, {"running": 2, "waiting": 0}, None),
        ({"kv_usage": 0.1}, {"kv_usage": 0.1000001}, "kv_usage"),
        ({"kv_usage": 0.2}, {"kv_usage": 0.1}, "kv_usage"),
        ({}, {"first_tokens": 1}, None),
        ({"first_tokens": 0}, {}, None),
        ({"queue_s": 0.0}, {"queue_s": 1.0}, "queue_s"),
    ],
)
def test_only_work_counts_as_movement(before, now, what):
    assert moved(ServerMetrics(answered=True, **before), ServerMetrics(answered=True, **now)) == what


def test_an_upload_is_no_step_of_a_prefill():
    rule = Stall(stall_s=10, started_s=0, one_step_s=100)
    for now_s in range(5):
        rule.move(now_s, "the upload", step=False)
    assert rule.limit_s() == 110
    rule.move(5, "kv usage")
    assert rule.limit_s() == 110
    rule.move(6, "kv usage")
    assert rule.limit_s() == 10
    assert rule.look(16) is None
    assert rule.look(16.1) == "no progress for 10.1 s (limit 10.0 s); the last progress was kv usage"


ACCESS = '(APIServer pid=1) INFO:     127.0.0.1:{} - "GET /metrics HTTP/1.1" 200 OK'
BUSY = "(EngineCore pid=1) INFO 11-20 23:13:{:02d} [shm_broadcast.py:1] No available shared memory broadcast block"


def test_a_log_moves_by_what_it_has_not_said_before(tmp_path):
    path = tmp_path / "log"
    path.write_text("INFO 11-20 23:13:01 loading\n")
    log = LogMotion(path, idle=("No available shared memory",))
    steps = [
        ("", True),
        ("", False),
        ("INFO 11-20 23:13:11 loading\n", False),  # present except for its time
        (ACCESS.format(40001) + "\n" + ACCESS.format(40002) + "\n", False),  # requested by the client
        (BUSY.format(5) + "\n", False),
        ("Loading shards:  1% |", True),  # a progress bar without a line end
        ("", False),
        ("\rLoading shards:  2% |", True),
        ("\rLoading shards:  2% |", False),
        ("\nINFO 11-20 23:13:12 KV cache size: 5\n", True),
    ]
    for text, says in steps:
        with path.open("a") as out:
            out.write(text)
        assert log.grown() is says, text
    assert log.last.endswith("KV cache size: 5")


def test_of_a_log_that_is_there_only_what_comes_counts(tmp_path):
    path = tmp_path / "log"
    path.write_text("a boot\n")
    log = LogMotion.from_now(path)
    assert not log.grown()
    assert LogMotion.from_now(None).grown() is LogMotion.from_now(tmp_path / "none").grown() is False


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"elapsed_s": 510, "prompt_tokens": 220_000, "read_tokens": 133_620.0},
            "too slow here: 262 tokens/s, would take 14 min 00 s; budget 8 min 30 s; last progress 0.50 s before the end",
        ),
        (
            {"elapsed_s": 510, "chunks": 101, "answering_s": 500.0},
            "too slow here: 0.2 chunks/s of the answer, would take 33 min 30 s; budget 8 min 30 s; ",
        ),
        ({"elapsed_s": 510}, "too slow here: still working, last progress 0.50 s before the end; budget 8 min 30 s"),
    ],
)
def test_it_is_said_how_slow_it_is_and_what_it_would_take(how, message):
    given = {"budget_s": 510, "silent_s": 0.5, "prompt_tokens": 1, "output_tokens": 400, **how}
    assert str(Pace(**given)).startswith(message)


def test_a_silence_is_allowed_as_much_longer_as_the_machine_is_slower():
    stall = Stall(10.0, 0.0, one_step_s=5.0, every_step_moves=False)
    assert (stall.limit_s(), stall.limit_s(stepwise=True)) == (15, 10)
    stall.slowed = lambda: 3.0
    assert (stall.limit_s(), stall.limit_s(stepwise=True)) == (45, 30)
    assert stall.look(44.0) is None
    assert stall.look(46.0) is not None


@pytest.mark.parametrize(
    ("runnable", "load"), [("1/85", 0.42), ("9/85", 2.0), ("", 0.42)], ids=["idle", "now", "unknown"]
)
def test_a_program_that_has_just_begun_counts_before_it_is_in_the_mean(monkeypatch, tmp_path, runnable, load):
    monkeypatch.setattr("os.getloadavg", lambda: (1.68, 1.0, 1.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(server_metrics, "_LOADAVG", tmp_path / "loadavg")
    if runnable:
        (tmp_path / "loadavg").write_text(f"1.68 1.00 1.00 {runnable} 4711\n")
    assert server_metrics.processes_per_core() == pytest.approx(load)
    assert server_metrics.host_load() == pytest.approx(max(1.0, load))


@pytest.mark.parametrize(
    ("backend", "attached", "slowed"),
    [("vllm-cpu", False, True), ("vllm-cpu", True, False), ("vllm", False, False)],
)
def test_only_an_engine_on_this_machines_cpu_is_slowed_by_its_load(monkeypatch, backend, attached, slowed):
    monkeypatch.setattr("os.getloadavg", lambda: (40.0, 1.0, 1.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    one = factories.deployment(backend=backend)
    server = Server("http://there", "m", named(backend), one, "process", attached=attached)
    gauges = MetricsPoller(httpx.AsyncClient(), server.backend.metrics, clock=lambda: 0.0)
    assert Watchdog(server, gauges).stall.slowed() == (10.0 if slowed else 1.0)


@pytest.mark.parametrize(("silent_s", "ending"), [(STALL_S - 1, "unfinished"), (STALL_S + 1, "stalled")])
def test_a_silence_beyond_the_limit_is_a_stall_even_if_the_deadline_comes_first(silent_s, ending):
    """The client was held up: it had no look at the silence before the deadline."""
    now_s = 0.0
    server = Server("http://there", "m", named("vllm"), factories.deployment(), "process")
    lookout = Watchdog(server, MetricsPoller(httpx.AsyncClient(), server.backend.metrics, clock=lambda: now_s))
    lookout.begin()
    lookout.came()
    now_s = silent_s
    found, why = lookout.time_is_up(5.0, [0.0, 0.1], 32)
    assert found == ending
    assert f"no progress for {silent_s:.1f} s" in why
