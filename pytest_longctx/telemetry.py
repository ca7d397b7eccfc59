"""What a server says of itself while it works: the gauges and counters of ``/metrics``."""

from collections.abc import Iterable
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pytest_longctx.backends import MetricNames

PATH = "/metrics"


@dataclass(frozen=True, slots=True)
class Reading:
    """One scrape; None is not observed."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    cached_tokens: float | None = None
    generated_tokens: float | None = None

    @property
    def unscheduled(self) -> bool:
        """Requests wait, none runs, and the cache is empty: the scheduler has something to do and does nothing."""
        return bool(self.waiting) and self.running == 0 and not self.kv_usage


def read(text: str, names: MetricNames) -> Reading:
    """The figures of one ``/metrics`` page; several engines of one server are added up, their cache usage is the highest."""
    found = list(_samples(text, names))

    def total(name: str | None) -> float | None:
        values = [sample.value for sample in found if sample.name == name]
        return sum(values) if values else None

    usage = [sample.value for sample in found if sample.name == names.kv_usage]
    return Reading(
        running=total(names.running),
        waiting=total(names.waiting),
        kv_usage=max(usage) if usage else None,
        cached_tokens=total(names.cached_tokens),
        generated_tokens=total(names.generated_tokens),
    )


def _samples(text: str, names: MetricNames) -> Iterable[Sample]:
    wanted = tuple(name for name in (getattr(names, slot) for slot in MetricNames.__slots__) if name is not None)
    # A page holds thousands of histogram buckets; only the few lines asked for are parsed.
    lines = [line for line in text.split("\n") if line.startswith(wanted)] if wanted else []
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        yield from family.samples


def cache_layout(http: httpx.Client, names: MetricNames) -> dict[str, str]:
    """How the KV cache was laid out, where the server says so: its dtype."""
    if names.cache_info is None:
        return {}
    answer = http.get(PATH)
    if answer.status_code != 200:
        return {}
    labels = next((sample.labels for sample in _samples(answer.text, names) if sample.name == names.cache_info), {})
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
