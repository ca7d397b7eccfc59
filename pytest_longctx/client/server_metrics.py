"""What a server says of itself while it works: the gauges and counters of ``/metrics``."""

from collections.abc import Iterable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pytest_longctx.backends import MetricNames
from pytest_longctx.client.exchange import Ledger

PATH = "/metrics"


@dataclass(frozen=True, slots=True)
class Reading:
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

    def worked_since(self, before: "Reading") -> float | None:
        """Tokens that went through the model between *before* and this reading, of whichever request."""
        return self.grown("worked_tokens", before)

    def grown(self, name: str, before: "Reading") -> float | None:
        """How much the figure called *name* has grown since *before*; None where that is not known."""
        now, then = getattr(self, name), getattr(before, name)
        return None if now is None or not before.answered else now - (then or 0.0)

    def since(self, before: "Reading") -> Ledger:
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


def read(text: str, names: MetricNames) -> Reading:
    """The figures of one ``/metrics`` page; several engines of one server are added up, their cache usage is the highest."""
    found = list(_samples(text, names))

    def total(slot: str) -> float | None:
        values = [sample.value for sample in found if sample.name in getattr(names, slot)]
        return sum(values) if values else None

    usage = [sample.value for sample in found if sample.name in names.kv_usage]
    totals = {slot: total(slot) for slot in (*_GAUGES, *_COUNTERS)}
    return Reading(answered=bool(found), kv_usage=max(usage) if usage else None, **totals)


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


def glance(http: httpx.Client, names: MetricNames) -> Reading:
    """As `scrape`, for those who may wait."""
    try:
        answer = http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else Reading()
    except (httpx.HTTPError, ValueError):
        return Reading()


async def scrape(http: httpx.AsyncClient, names: MetricNames) -> Reading:
    """One look at the server's metrics; an empty reading where it has none or does not answer."""
    if names == MetricNames():
        return Reading()
    try:
        answer = await http.get(PATH)
        return read(answer.text, names) if answer.status_code == 200 else Reading()
    except (httpx.HTTPError, ValueError):  # no answer, or a page that is no metrics page
        return Reading()
