"""
Read a server's ``/metrics`` page, and decide whether a request or a boot still makes progress.

The stall rules have no clock of their own, so a test can replay hours. Progress is an uploaded part of the prompt, a
chunk of the answer, or a change of a counter, of the KV cache usage or of the log. The number of running requests is
not progress: a hung server keeps reporting them.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pytest_longctx.backends import MetricNames
from pytest_longctx.client.exchange import Ledger
from pytest_longctx.client.json_values import figure_of
from pytest_longctx.units import duration

PATH = "/metrics"
_MOST_LINES: Final = 10_000
"""Most metric lines read, over all engines of a server. Each engine has about thirty."""
_WIDEST: Final = 4096


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """One scrape of a server's metrics. None means not observed."""

    answered: bool = False
    """Whether the page had any known metric. A counter missing from such a page has counted nothing."""
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_used_tokens: float | None = None
    worked_tokens: float | None = None
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    cached_tokens: float | None = None
    external_tokens: float | None = None
    preemptions: float | None = None
    drafted_tokens: float | None = None
    accepted_tokens: float | None = None
    corrupted_requests: float | None = None
    first_tokens: float | None = None
    ttft_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None

    @property
    def unscheduled(self) -> bool:
        """Whether requests wait while none runs: the scheduler has work and starts none of it."""
        return bool(self.waiting) and self.running == 0

    def worked_since(self, before: "ServerMetrics") -> float | None:
        """
        Return the number of tokens of all requests that the model processed from *before* to this scrape; None if
        unknown.
        """
        return figure_of(self.grown("worked_tokens", before))

    def grown(self, name: str, before: "ServerMetrics") -> float | None:
        """Return the increase of the metric *name* since *before*; None if unknown."""
        now, then = getattr(self, name), getattr(before, name)
        return None if now is None or not before.answered else now - (then or 0.0)

    def since(self, before: "ServerMetrics") -> Ledger:
        """Return the increase of the server's counters from *before* to this scrape."""

        def counted(name: str) -> int | None:
            value = seconds(name)
            return None if value is None else round(value)

        def seconds(name: str) -> float | None:
            # A counter that has fallen belongs to an engine that restarted: its growth is not known.
            return figure_of(self.grown(name, before))

        return Ledger(
            prompt_tokens=counted("prompt_tokens"),
            completion_tokens=counted("generated_tokens"),
            cached_tokens=counted("cached_tokens"),
            external_tokens=counted("external_tokens") if self.external_tokens is not None else None,
            corrupted_requests=counted("corrupted_requests") if self.corrupted_requests is not None else None,
            first_tokens=counted("first_tokens"),
            ttft_s=seconds("ttft_s"),
            queue_s=seconds("queue_s"),
            prefill_s=seconds("prefill_s"),
        )


_GAUGES = ("running", "waiting", "kv_used_tokens")
_COUNTERS = (
    "worked_tokens",
    "prompt_tokens",
    "generated_tokens",
    "cached_tokens",
    "external_tokens",
    "preemptions",
    "drafted_tokens",
    "accepted_tokens",
    "corrupted_requests",
    "first_tokens",
    "ttft_s",
    "queue_s",
    "prefill_s",
)


def read(text: str, names: MetricNames) -> ServerMetrics:
    """
    Return the metrics of one ``/metrics`` page. Counters of several engines are summed; of their cache usages, the
    highest is taken.

    A metric whose value no counter or gauge can have (NaN, infinite, negative, above 2^53) is not observed. Raises
    `ValueError` if the page is no metrics page.
    """
    found = list(_samples(text, names))

    def total(slot: str) -> float | None:
        values = [sample.value for sample in found if sample.name in getattr(names, slot)]
        sound = [figure_of(value) for value in values]
        return figure_of(sum(value or 0.0 for value in sound)) if sound and None not in sound else None

    usage = [
        value for sample in found if sample.name in names.kv_usage and (value := figure_of(sample.value)) is not None
    ]
    totals = {slot: total(slot) for slot in (*_GAUGES, *_COUNTERS)}
    return ServerMetrics(answered=bool(found), kv_usage=max(usage) if usage else None, **totals)


def _samples(text: str, names: MetricNames) -> Iterable[Sample]:
    wanted = tuple(name for slot in MetricNames.model_fields for name in getattr(names, slot))
    # A page has thousands of histogram lines; parse only the few that are needed.
    lines = [line for line in text.split("\n") if line.startswith(wanted)] if wanted else []
    if len(lines) > _MOST_LINES:
        raise ValueError(f"the page has {len(lines):,} lines of known metrics; at most {_MOST_LINES:,} are read")
    if (width := max(map(len, lines), default=0)) > _WIDEST:
        raise ValueError(f"the page has a line of {width:,} characters; lines of at most {_WIDEST:,} are read")
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            yield from family.samples
    except Exception as problem:  # noqa: BLE001 - the parser raises whatever it meets on a malformed line
        raise ValueError(f"not a metrics page: {problem}") from None


def cache_layout(http: httpx.Client, names: MetricNames) -> dict[str, str]:
    """Return the layout of the KV cache, which is its dtype, if the server reports it; empty otherwise."""
    dtype = cache_labels(http, names).get("cache_dtype")
    return {"kv_cache_dtype": dtype} if dtype else {}


def cache_labels(http: httpx.Client, names: MetricNames) -> dict[str, str]:
    """Return the labels that describe the KV cache (its dtype, the size of a block), if the server reports them."""
    if not names.cache_info:
        return {}
    answer = http.get(PATH)
    if answer.status_code != 200:
        return {}
    return next((dict(each.labels) for each in _samples(answer.text, names) if each.name in names.cache_info), {})


def glance(http: httpx.Client, names: MetricNames) -> ServerMetrics:
    """Return one scrape of a server's metrics from blocking code; see `scrape`."""
    try:
        answer = http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else ServerMetrics()
    except (httpx.HTTPError, ValueError):
        return ServerMetrics()


async def scrape(http: httpx.AsyncClient, names: MetricNames) -> ServerMetrics:
    """Return one scrape of the server's metrics. The reading is empty if the server has none or does not answer."""
    if names == MetricNames():
        return ServerMetrics()
    try:
        answer = await http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else ServerMetrics()
    except (httpx.HTTPError, ValueError):  # no answer, or not a metrics page
        return ServerMetrics()


SLOWER: Final = 3.0
"""Allowed ratio of the next step's time to the longest step so far, because later chunks of a prompt take longer."""
_ONE_STEP: Final = 2
"""
Number of gauge changes that prove that a prompt is computed in several steps.

The first change may be the cache allocation for the whole prompt. A server without chunked prefill shows no further
change.
"""
_COUNTS_REQUESTS: Final = ("answered", "running", "waiting")


def moved(before: ServerMetrics, now: ServerMetrics) -> str | None:
    """
    Return the name of a metric that differs between two scrapes; None if all are equal. Metrics missing from one scrape
    are ignored.
    """
    then, value = _figures(before), _figures(now)
    return next((name for name in then if name in value and value[name] != then[name]), None)


def can_move(page: ServerMetrics) -> bool:
    """Return whether a metrics *page* has a metric that changes with the engine's work."""
    return bool(_figures(page))


def _figures(page: ServerMetrics) -> dict[str, float]:
    known = {each.name: getattr(page, each.name) for each in fields(page) if each.name not in _COUNTS_REQUESTS}
    return {name: value for name, value in known.items() if value is not None}


def unslowed() -> float:
    """Return 1.0, the default slow-down: the machine is as fast as when its speed was measured."""
    return 1.0


_LOADAVG = Path("/proc/loadavg")


def processes_per_core() -> float:
    """
    Return the number of processes that run or are ready to run, per core of this machine.

    The number is the mean of the last minute, or the present one if that is higher, because the mean lags a minute
    behind a program that has just started.
    """
    now = 0
    with suppress(OSError, ValueError, IndexError):
        now = int(_LOADAVG.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1  # without this one
    return max(os.getloadavg()[0], now) / (os.cpu_count() or 1)


def host_load() -> float:
    """Return `processes_per_core`, at least 1."""
    return max(1.0, processes_per_core())


@dataclass(slots=True)
class Stall:
    """Detector of a stalled request or boot: no progress for `limit_s`."""

    stall_s: float
    started_s: float
    one_step_s: float = 0.0
    """Extra time until chunked prefill is observed: the whole prompt at the slowest rate."""
    every_step_moves: bool = True
    """
    Whether an observable metric changes with every prefill step. A cache of windows alone fills long before the end.
    """
    last: str | None = None
    """The last thing that changed; None if nothing has."""
    steps: int = 0
    slowed: Callable[[], float] = unslowed
    """How many times slower than measured the machine may be now; at least 1."""
    moved_s: float = field(init=False)
    _longest_s: float = 0.0

    def __post_init__(self) -> None:
        self.moved_s = self.started_s

    def move(self, now_s: float, what: str, *, step: bool = True) -> None:
        """
        Record progress of a request from the server's metrics. *step*: the computation itself progressed, not only its
        start.
        """
        if step and self.steps:
            self._longest_s = max(self._longest_s, now_s - self.moved_s)
        self.steps += step
        self.moved_s, self.last = now_s, what

    def limit_s(self, *, stepwise: bool = False) -> float:
        """
        Return the longest time in seconds that the server's metrics may show no progress. *stepwise*: the request is
        computed in steps.
        """
        usual_s = max(self.stall_s, SLOWER * self._longest_s)
        in_steps = stepwise or (self.every_step_moves and self.steps >= _ONE_STEP)
        return (usual_s if in_steps else usual_s + self.one_step_s) * self.slowed()

    def look(self, now_s: float, *, stepwise: bool = False) -> str | None:
        """Return the reason if the server's metrics show that a request has stalled; None if it has not."""
        silent_s, limit_s = now_s - self.moved_s, self.limit_s(stepwise=stepwise)
        if silent_s <= limit_s:
            return None
        last = "no progress before that" if self.last is None else f"the last progress was {self.last}"
        return f"no progress for {duration(silent_s)} (limit {duration(limit_s)}); {last}"


@dataclass(frozen=True, slots=True)
class Pace:
    """The progress of a request whose deadline passed, as text."""

    elapsed_s: float
    budget_s: float
    silent_s: float
    """Time since the last progress."""
    prompt_tokens: int
    output_tokens: int
    read_tokens: float | None = None
    """Tokens of the prompt computed so far; None if the server does not report them."""
    chunks: int = 0
    answering_s: float = 0.0
    """Time from the first chunk to the last."""

    def __str__(self) -> str:
        if self.chunks > 1 and self.answering_s > 0:
            rate, done_s = (self.chunks - 1) / self.answering_s, self.elapsed_s - self.answering_s
            speed, needs_s = f"{rate:,.3g} chunks/s of the answer", done_s + self.output_tokens / rate
        elif self.read_tokens and not self.chunks:
            rate = self.read_tokens / self.elapsed_s
            speed, needs_s = f"{rate:,.4g} tokens/s", self.prompt_tokens / rate
        else:
            return f"too slow here: still working, {self._moved}; budget {duration(self.budget_s)}"
        if needs_s <= self.elapsed_s:  # only known that it had not ended
            return f"too slow here: {speed}, {self._moved}; budget {duration(self.budget_s)}"
        return (
            f"too slow here: {speed}, would take {duration(needs_s)}; budget {duration(self.budget_s)}; {self._moved}"
        )

    @property
    def _moved(self) -> str:
        return f"last progress {duration(self.silent_s)} before the end"


REQUEST_REMEDY: Final = (
    "try a longer timeouts.answer_s or a lower slowest_prefill_tokens_per_s in the deployment, a shorter prompt, "
    "or a dtype that is faster on this machine"
)
