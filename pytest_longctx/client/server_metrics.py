"""
What a server says of itself while it works: the gauges and counters of ``/metrics``.

Is a request or a boot still at work? Rules on what was seen to move, without a clock of their own, so that hours can be replayed.

What moves is a part of the prompt that is taken, a chunk of the answer, a counter, the use of the KV cache, or the log. How
many requests run says nothing: a server that stands still goes on counting them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pytest_longctx.backends import MetricNames
from pytest_longctx.client.exchange import Ledger
from pytest_longctx.units import duration

PATH = "/metrics"


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """One scrape; None is not observed."""

    answered: bool = False
    """Whether the page had any figure of ours: a counter that is not on it yet has then counted nothing."""
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_used_tokens: float | None = None
    worked_tokens: float | None = None
    prompt_tokens: float | None = None
    generated_tokens: float | None = None
    cached_tokens: float | None = None
    first_tokens: float | None = None
    ttft_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None

    @property
    def unscheduled(self) -> bool:
        """Requests wait and none runs: the scheduler has something to do, and at this moment does nothing."""
        return bool(self.waiting) and self.running == 0

    def worked_since(self, before: "ServerMetrics") -> float | None:
        """Tokens that went through the model between *before* and this reading, of whichever request."""
        return self.grown("worked_tokens", before)

    def grown(self, name: str, before: "ServerMetrics") -> float | None:
        """How much the figure called *name* has grown since *before*; None where that is not known."""
        now, then = getattr(self, name), getattr(before, name)
        return None if now is None or not before.answered else now - (then or 0.0)

    def since(self, before: "ServerMetrics") -> Ledger:
        """What the server counted between *before* and this reading."""

        def counted(name: str) -> int | None:
            value = self.grown(name, before)
            return None if value is None else round(value)

        return Ledger(
            prompt_tokens=counted("prompt_tokens"),
            completion_tokens=counted("generated_tokens"),
            cached_tokens=counted("cached_tokens"),
            first_tokens=counted("first_tokens"),
            ttft_s=self.grown("ttft_s", before),
            queue_s=self.grown("queue_s", before),
            prefill_s=self.grown("prefill_s", before),
        )


_GAUGES = ("running", "waiting", "kv_used_tokens")
_COUNTERS = (
    "worked_tokens",
    "prompt_tokens",
    "generated_tokens",
    "cached_tokens",
    "first_tokens",
    "ttft_s",
    "queue_s",
    "prefill_s",
)


def read(text: str, names: MetricNames) -> ServerMetrics:
    """The figures of one ``/metrics`` page; several engines of one server are added up, their cache usage is the highest."""
    found = list(_samples(text, names))

    def total(slot: str) -> float | None:
        values = [sample.value for sample in found if sample.name in getattr(names, slot)]
        return sum(values) if values else None

    usage = [sample.value for sample in found if sample.name in names.kv_usage]
    totals = {slot: total(slot) for slot in (*_GAUGES, *_COUNTERS)}
    return ServerMetrics(answered=bool(found), kv_usage=max(usage) if usage else None, **totals)


def _samples(text: str, names: MetricNames) -> Iterable[Sample]:
    wanted = tuple(name for slot in MetricNames.model_fields for name in getattr(names, slot))
    # A page holds thousands of histogram buckets; only the few lines asked for are parsed.
    lines = [line for line in text.split("\n") if line.startswith(wanted)] if wanted else []
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        yield from family.samples


def cache_layout(http: httpx.Client, names: MetricNames) -> dict[str, str]:
    """How the KV cache was laid out, where the server says so: its dtype."""
    if not names.cache_info:
        return {}
    answer = http.get(PATH)
    if answer.status_code != 200:
        return {}
    labels = next((sample.labels for sample in _samples(answer.text, names) if sample.name in names.cache_info), {})
    dtype = labels.get("cache_dtype")
    return {"kv_cache_dtype": dtype} if dtype else {}


def glance(http: httpx.Client, names: MetricNames) -> ServerMetrics:
    """As `scrape`, for those who may wait."""
    try:
        answer = http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else ServerMetrics()
    except (httpx.HTTPError, ValueError):
        return ServerMetrics()


async def scrape(http: httpx.AsyncClient, names: MetricNames) -> ServerMetrics:
    """One look at the server's metrics; an empty reading where it has none or does not answer."""
    if names == MetricNames():
        return ServerMetrics()
    try:
        answer = await http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else ServerMetrics()
    except (httpx.HTTPError, ValueError):  # no answer, or a page that is no metrics page
        return ServerMetrics()


SLOWER: Final = 3.0
"""How many times longer than the longest step so far the next one may take: the later chunks of a prompt cost more."""
_ONE_STEP: Final = 2
"""
Movements of the gauges from which a prompt is known to be read in several steps.

The first may be the cache that was taken for the whole of it, which a server without chunked prefill then reads in silence.
"""
_COUNTS_REQUESTS: Final = ("answered", "running", "waiting")


def moved(before: ServerMetrics, now: ServerMetrics) -> str | None:
    """Which figure differs between two pages, None where none does: what only one of them has does not tell."""
    then, value = _figures(before), _figures(now)
    return next((name for name in then if name in value and value[name] != then[name]), None)


def can_move(page: ServerMetrics) -> bool:
    """Whether there is anything on *page* that would move with the work."""
    return bool(_figures(page))


def _figures(page: ServerMetrics) -> dict[str, float]:
    known = {each.name: getattr(page, each.name) for each in fields(page) if each.name not in _COUNTS_REQUESTS}
    return {name: value for name, value in known.items() if value is not None}


@dataclass(slots=True)
class Stall:
    """What one request, or one boot, was seen to do; it has stalled once nothing has moved for `limit_s`."""

    stall_s: float
    started_s: float
    one_step_s: float = 0.0
    """How much longer it may be silent before it is known to work in steps: what the whole prompt takes at the slowest rate."""
    every_step_moves: bool = True
    """Whether what can be seen moves with every step of a prefill; a cache of windows alone is full long before the end."""
    last: str | None = None
    """What moved last; None: nothing has."""
    steps: int = 0
    moved_s: float = field(init=False)
    _longest_s: float = 0.0

    def __post_init__(self) -> None:
        self.moved_s = self.started_s

    def move(self, now_s: float, what: str, *, step: bool = True) -> None:
        """Something moved; *step*: it is a part of the work, and not only of its beginning."""
        if step and self.steps:
            self._longest_s = max(self._longest_s, now_s - self.moved_s)
        self.steps += step
        self.moved_s, self.last = now_s, what

    def limit_s(self, *, stepwise: bool = False) -> float:
        """How long it may be silent now; *stepwise*: it is known to work in steps."""
        usual_s = max(self.stall_s, SLOWER * self._longest_s)
        in_steps = stepwise or (self.every_step_moves and self.steps >= _ONE_STEP)
        return usual_s if in_steps else usual_s + self.one_step_s

    def look(self, now_s: float, *, stepwise: bool = False) -> str | None:
        """Why it has stalled; None: it has not, or not yet."""
        silent_s, limit_s = now_s - self.moved_s, self.limit_s(stepwise=stepwise)
        if silent_s <= limit_s:
            return None
        last = "nothing had moved before" if self.last is None else f"{self.last} had moved last"
        return f"nothing moved for {duration(silent_s)}, and {duration(limit_s)} are allowed; {last}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a request had come when its time was up."""

    elapsed_s: float
    budget_s: float
    silent_s: float
    """Since something moved last."""
    prompt_tokens: int
    output_tokens: int
    read_tokens: float | None = None
    """Of the prompt, as far as the server tells; None: it does not."""
    chunks: int = 0
    answering_s: float = 0.0
    """From the first chunk to the last."""

    def __str__(self) -> str:
        if self.chunks > 1 and self.answering_s > 0:
            rate, done_s = (self.chunks - 1) / self.answering_s, self.elapsed_s - self.answering_s
            speed, needs_s = f"{rate:,.3g} chunks/s of the answer", done_s + self.output_tokens / rate
        elif self.read_tokens and not self.chunks:
            rate = self.read_tokens / self.elapsed_s
            speed, needs_s = f"{rate:,.4g} tokens/s", self.prompt_tokens / rate
        else:
            return f"too slow here: still at work, {self._moved}; budget {duration(self.budget_s)}"
        if needs_s <= self.elapsed_s:  # no more is known than that it was not over
            return f"too slow here: {speed}, {self._moved}; budget {duration(self.budget_s)}"
        return (
            f"too slow here: {speed}, would take {duration(needs_s)}; budget {duration(self.budget_s)}; {self._moved}"
        )

    @property
    def _moved(self) -> str:
        return f"something moved {duration(self.silent_s)} before the end"


REQUEST_REMEDY: Final = (
    "try a longer timeouts.answer_s or a lower slowest_prefill_tokens_per_s in the deployment, a shorter prompt, "
    "or a dtype that this machine is fast in"
)
