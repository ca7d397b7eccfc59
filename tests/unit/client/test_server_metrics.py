import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from pytest_longctx.backends import MetricNames
from pytest_longctx.backends.sglang import Sglang
from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.client.server_metrics import ServerMetrics, cache_layout, read, scrape

NAMES = MetricNames(
    running=("x:running",),
    waiting=("x:waiting",),
    kv_usage=("x:usage",),
    cached_tokens=("x:cached_total",),
    generated_tokens=("x:generated_total",),
    cache_info=("x:cache_info",),
)
ENGINES = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.tuples(*[st.floats(0, 1e9)] * 5),
    min_size=1,
    max_size=4,
)


def page(engines: Mapping[str, Sequence[float]]) -> str:
    """Return the metrics page of a server with these engines: gauges, counters, and many irrelevant entries."""
    registry = CollectorRegistry()
    gauges = [Gauge(name, name, ["engine"], registry=registry) for name in ("x:running", "x:waiting", "x:usage")]
    counters = [Counter(name, name, ["engine"], registry=registry) for name in ("x:cached", "x:generated")]
    metrics: list[Gauge | Counter] = [*gauges, *counters]
    for engine, values in engines.items():
        for metric, value in zip(metrics, values, strict=True):
            metric.labels(engine).inc(value)
    for other in ("x:running_too", "x:usage_other", "other"):
        Gauge(other, "not asked for", registry=registry).set(7)
    return generate_latest(registry).decode()


@given(ENGINES)
def test_engines_are_added_up_and_the_fullest_cache_counts(engines):
    running, waiting, usage, cached, generated = zip(*engines.values(), strict=True)
    found = read(page(engines), NAMES)
    assert found.running == pytest.approx(sum(running))
    assert found.waiting == pytest.approx(sum(waiting))
    assert found.kv_usage == pytest.approx(max(usage))
    assert found.cached_tokens == pytest.approx(sum(cached))
    assert found.generated_tokens == pytest.approx(sum(generated))


def test_a_gauge_that_says_zero_was_observed_and_a_gauge_that_is_missing_was_not():
    found = read("x:running 0.0\n", NAMES)
    assert (found.running, found.waiting, found.kv_usage) == (0.0, None, None)


@pytest.mark.parametrize(
    "text", ["", "\n", "# HELP x:running x:running\n# TYPE x:running gauge\n", "<html>no metrics</html>"]
)
def test_a_page_without_samples_is_an_empty_reading(text):
    assert read(text, NAMES) == ServerMetrics()


@pytest.mark.parametrize("text", ["x:running 1", 'x:running{engine="0"} 1\n', 'x:running{a="} 9"} 1 1700000000\n'])
def test_a_sample_is_read_in_every_form_it_may_have(text):
    assert read(text, NAMES).running == 1.0


def test_names_that_only_begin_alike_are_not_added():
    assert read("x:running 1\nx:running_max 9\nx:runnings 9\n", NAMES).running == 1.0


def test_a_server_without_names_is_not_read():
    assert read("x:running 1\n", MetricNames()) == ServerMetrics()


@pytest.mark.parametrize("backend", [Vllm(), Sglang()], ids=lambda backend: backend.name)
def test_a_backends_own_names_are_read(backend):
    names = backend.metrics
    # A counter may be in two slots: vLLM's external hits are cached tokens, and a source of their own.
    every = dict.fromkeys(name for slot in MetricNames.model_fields for name in getattr(names, slot))
    found = read("".join(f'{name}{{model_name="m"}} 3.0\n' for name in every), names)
    assert (found.running, found.waiting, found.generated_tokens, found.first_tokens) == (3.0, 3.0, 3.0, 3.0)
    assert found.cached_tokens == 3.0 * len(names.cached_tokens)


@pytest.mark.parametrize(
    ("reading", "unscheduled"),
    [
        (ServerMetrics(running=0, waiting=1, kv_usage=0.0), True),
        (ServerMetrics(running=0, waiting=1, kv_usage=0.2), True),
        (ServerMetrics(running=1, waiting=1, kv_usage=0.0), False),
        (ServerMetrics(running=None, waiting=1, kv_usage=0.0), False),
        (ServerMetrics(running=0, waiting=0, kv_usage=0.0), False),
        (ServerMetrics(running=0, waiting=None, kv_usage=0.0), False),
        (ServerMetrics(), False),
    ],
)
def test_unscheduled_is_waiting_while_none_runs(reading, unscheduled):
    assert reading.unscheduled is unscheduled


def test_what_a_server_counted_is_the_growth_of_its_counters():
    before = ServerMetrics(answered=True, prompt_tokens=100.0, generated_tokens=7.0, ttft_s=1.5)
    after = ServerMetrics(answered=True, prompt_tokens=350.0, generated_tokens=9.0, cached_tokens=16.0, ttft_s=2.25)
    counted = after.since(before)
    assert (counted.prompt_tokens, counted.completion_tokens, counted.ttft_s) == (250, 2, 0.75)
    assert counted.cached_tokens == 16  # a counter that was not on the page yet was zero
    assert (counted.first_tokens, counted.queue_s) == (None, None)


def test_nothing_is_said_of_counters_that_were_not_read_before():
    assert ServerMetrics(answered=True, prompt_tokens=350.0).since(ServerMetrics()).prompt_tokens is None


@contextmanager
def serving(text: str, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server whose every page is *text*; yields its address and the paths requested so far."""
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Suppress the log."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def look(url: str, names: MetricNames = NAMES) -> ServerMetrics:
    async def once() -> ServerMetrics:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            return await scrape(http, names)

    return asyncio.run(once())


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, ServerMetrics(answered=True, running=2.0)), (404, ServerMetrics()), (503, ServerMetrics())],
)
def test_a_scrape_is_the_reading_of_a_page_that_was_given(status, expected):
    with serving("x:running 2\n", status) as (url, asked):
        assert look(url) == expected
    assert asked == ["/metrics"]


def test_a_server_that_does_not_answer_is_an_empty_reading():
    with serving("") as (url, _):
        pass
    assert look(url) == ServerMetrics()


def test_a_server_without_names_is_not_asked():
    with serving("x:running 2\n") as (url, asked):
        assert look(url, MetricNames()) == ServerMetrics()
    assert asked == []


@pytest.mark.parametrize(
    ("text", "status", "names", "expected"),
    [
        ('x:cache_info{cache_dtype="fp8_e4m3",block_size="16"} 1\n', 200, NAMES, {"kv_cache_dtype": "fp8_e4m3"}),
        ('x:cache_info{block_size="16"} 1\n', 200, NAMES, {}),
        ("", 200, NAMES, {}),
        ('x:cache_info{cache_dtype="fp8"} 1\n', 404, NAMES, {}),
        ('x:cache_info{cache_dtype="fp8"} 1\n', 200, MetricNames(), {}),
    ],
)
def test_the_caches_dtype_is_in_the_labels(text, status, names, expected):
    with serving(text, status) as (url, _), httpx.Client(base_url=url, trust_env=False) as http:
        assert cache_layout(http, names) == expected


PAGES = Path(__file__).parents[2] / "data" / "metrics"


def test_every_name_of_ours_is_on_the_page_of_a_real_server():
    """Page of vLLM 0.32 on a CPU, after 32 requests of 212 + 76 tokens; histogram buckets are omitted."""
    found = read((PAGES / "vllm-0.32.0-cpu.txt").read_text(encoding="utf-8"), MetricNames.of("vllm"))
    assert found == ServerMetrics(
        answered=True,
        running=0.0,
        waiting=0.0,
        kv_usage=0.0,
        prompt_tokens=6784.0,
        generated_tokens=2432.0,
        cached_tokens=0.0,
        external_tokens=0.0,
        preemptions=0.0,
        first_tokens=32.0,
        ttft_s=0.7453536987304688,
        queue_s=0.0004635069990399643,
        prefill_s=0.27600389700046435,
    )


@pytest.mark.parametrize(
    ("page", "engine", "cached", "prefill_is_known"),
    [("vllm-0.25.1-h200", "vllm", 7984.0, True), ("sglang-0.5.16-h200", "sglang", None, False)],
)
def test_names_hold_on_other_real_servers(page, engine, cached, prefill_is_known):
    """Pages of one H200. SGLang has no counter of cached tokens before the first cached token, and none of prefill time."""
    found = read((PAGES / f"{page}.txt").read_text(encoding="utf-8"), MetricNames.of(engine))
    assert found.answered
    seen = (found.running, found.waiting, found.kv_usage, found.prompt_tokens, found.generated_tokens, found.ttft_s)
    assert None not in seen
    assert None not in (found.first_tokens, found.queue_s)
    assert found.cached_tokens == cached
    assert (found.prefill_s is not None) is prefill_is_known
    # SGLang rounds the share to hundredths, which are 671,000 tokens of this pool.
    assert (found.kv_usage, found.kv_used_tokens) == (
        (0.08, 5_275_648) if engine == "sglang" else (found.kv_usage, None)
    )
    # Prompt tokens chunk by chunk, and decoded tokens.
    assert found.worked_tokens == (14_146_120 + 660 if engine == "sglang" else None)
