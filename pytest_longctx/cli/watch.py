"""``longctx watch``: live KV cache, queue and time to first token of a server, from its metrics page."""

import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from pytest_longctx import backends, registry
from pytest_longctx.backends import MetricNames
from pytest_longctx.client import server_metrics
from pytest_longctx.client.http_client import PageClient
from pytest_longctx.client.server import KEY_VARIABLE
from pytest_longctx.client.server_metrics import ServerMetrics
from pytest_longctx.errors import LaunchError, UsageError, unknown
from pytest_longctx.launchers.url import UrlLauncher
from pytest_longctx.redaction import checked_key, remember, shown
from pytest_longctx.units import duration

_TIMEOUT_S: Final = 10.0
_SHOWN: Final = 200
"""Most characters of an address in a message."""
_HEAD_EVERY: Final = 20
"""Number of rows after which the head of the table is printed again."""
_COLUMNS: Final = ("time UTC", "KV used", "running", "waiting", "TTFT", "of", "prompt/s", "answer/s", "preempted")
_WIDTHS: Final = (8, 7, 7, 7, 9, 5, 9, 9, 9)

Look = Callable[[], ServerMetrics]


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One reading of a server; None for a value that was not observed. Rates and counts cover the time since the last
    reading.
    """

    at: str
    kv_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""
    kv_used_tokens: float | None = None
    running: float | None = None
    waiting: float | None = None
    ttft_s: float | None = None
    """
    Mean time to first token by the server's own clock, over requests with a first token since the last observed
    reading.

    In the first reading, since the server started.
    """
    first_tokens: float | None = None
    """The number of these requests."""
    prompt_tokens_per_s: float | None = None
    answer_tokens_per_s: float | None = None
    preemptions: float | None = None
    problem: str = ""
    """The reason why nothing was observed."""

    def cells(self) -> tuple[str, ...]:
        """Return the reading as cells of the table on the terminal."""
        return (
            self.at[11:19],
            "" if self.kv_usage is None else f"{self.kv_usage:.1%}",
            *(_count(value) for value in (self.running, self.waiting)),
            "" if self.ttft_s is None else duration(self.ttft_s),
            *map(_count, (self.first_tokens, self.prompt_tokens_per_s, self.answer_tokens_per_s, self.preemptions)),
        )


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def add(commands: Any) -> None:
    """Add the subcommand ``longctx watch`` to the console parser."""
    parser: ArgumentParser = commands.add_parser(
        "watch", help="watch a running server: use of its KV cache, requests running and waiting, time to first token"
    )
    parser.add_argument("url", metavar="URL", help=f"base URL of the server; a key comes from {KEY_VARIABLE}")
    parser.add_argument(
        "--backend", metavar="NAME", help="the engine whose metric names the page uses; default: detected from the page"
    )
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between readings; default: 2")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N readings; default: run until Ctrl-C")
    parser.add_argument(
        "--once", action="store_true", help="print one reading, with the mean TTFT since the server started"
    )
    parser.add_argument("--json", action="store_true", help="print each reading as a line of JSON")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """
    Print readings until Ctrl-C, and return 0.

    Raises `LaunchError` if the first reading fails: there is no server, or no known metric.
    """
    if not 0.1 <= given.every <= 86_400:
        raise UsageError(f"--every: must be from 0.1 to 86400 s; found {given.every:g}")
    if given.count is not None and given.count < 1:
        raise UsageError(f"--count: must be 1 or more; found {given.count}")
    if given.backend is not None and given.backend not in registry.BACKENDS:
        raise UsageError(unknown("backend", given.backend, registry.BACKENDS))
    count = 1 if given.once else given.count
    with closing(_opened(given.url)) as http:
        names = dialect(_page(http), given.url, given.backend)
        found = samples(lambda: server_metrics.read(_page(http), names), given.every, count)
        try:
            for number, sample in enumerate(found):
                for line in [json.dumps(asdict(sample))] if given.json else rows(sample, number):
                    print(shown(line), flush=True)
        except KeyboardInterrupt:
            return 0
    return 0


def _opened(url: str) -> PageClient:
    try:
        place = UrlLauncher(url)
    except UsageError as problem:
        raise UsageError(str(problem).replace("--longctx-launcher=url:", "").replace("url:http", "http")) from None
    key = checked_key(os.environ.get(KEY_VARIABLE), KEY_VARIABLE)
    remember((key,) if key else ())
    headers = {"Authorization": f"Bearer {key}"} if key else place.headers
    try:
        return PageClient(base_url=place.base, headers=headers, timeout=_TIMEOUT_S, trust_env=not place.local)
    except httpx.InvalidURL as problem:
        raise UsageError(f"{shown(place.base)[:_SHOWN]}: {problem}") from None


def _page(http: httpx.Client) -> str:
    """Return the text of the server's metrics page. Raises `LaunchError`."""
    try:
        answer = http.get(server_metrics.PATH)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as problem:
        said = f"{str(http.base_url)[:_SHOWN]} does not answer: {type(problem).__name__}: {problem}"
        raise LaunchError(f"{said}\n  try      the address and the port of the server") from None
    if answer.status_code != 200:
        raise LaunchError(
            f"{http.base_url}{server_metrics.PATH.lstrip('/')} answers HTTP {answer.status_code}\n"
            "  try      the server's own address, not that of a proxy; for SGLang its flag --enable-metrics"
        )
    return answer.text


def dialect(page: str, url: str, backend: str | None = None) -> MetricNames:
    """
    Return the metric names of *backend*; without it, of the engine with most metrics on *page*. Raises `LaunchError` if
    no engine has any.
    """
    known = {name: backends.named(name).metrics for name in ([backend] if backend else registry.BACKENDS)}
    found = {name: _observed(page, names) for name, names in known.items()}
    best = max(found, key=lambda name: found[name])
    if not found[best]:
        raise LaunchError(
            f"{shown(url)}: the metrics page has no metric of {backend or 'vLLM or SGLang'}\n"
            "  try      for SGLang its flag --enable-metrics; the server's own address, not that of a router"
        )
    return known[best]


def _observed(page: str, names: MetricNames) -> int:
    try:
        seen = server_metrics.read(page, names)
    except ValueError:
        return 0
    return sum(getattr(seen, each.name) is not None for each in fields(seen) if each.name != "answered")


def samples(
    look: Look,
    every_s: float,
    count: int | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sample]:
    """
    Yield *count* readings by *look*, one every *every_s* seconds, without end if *count* is None. A failed reading
    states its problem.
    """
    before, before_s, began_s, done = ServerMetrics(), 0.0, clock(), 0
    while count is None or done < count:
        if done:
            sleep(max(0.0, began_s + every_s - clock()))
        began_s, at = clock(), datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            now = look()
        except (LaunchError, ValueError) as problem:
            if not done:
                raise
            yield Sample(at, problem=str(problem).partition("\n")[0])
        else:
            yield sample(at, now, before, began_s - before_s if before.answered else None)
            before, before_s = now, began_s
        done += 1


def sample(at: str, now: ServerMetrics, before: ServerMetrics, elapsed_s: float | None) -> Sample:
    """
    Return the reading *now* with rates and counts since *before*. Without *elapsed_s*, the reading is the first, and
    counts from the start.
    """

    def grown(name: str) -> float | None:
        value = getattr(now, name) if elapsed_s is None else now.grown(name, before)
        return value if value is None or value >= 0 else None  # an engine that restarted

    def rate(*names: str) -> float | None:
        value = next((each for name in names if (each := grown(name)) is not None), None)
        return None if value is None or not elapsed_s else value / elapsed_s

    first, waited_s = grown("first_tokens"), grown("ttft_s")
    return Sample(
        at,
        now.kv_usage,
        now.kv_used_tokens,
        now.running,
        now.waiting,
        waited_s / first if first and waited_s is not None else None,
        first,
        rate("prompt_tokens"),
        rate("generated_tokens"),
        grown("preemptions"),
    )


def rows(one: Sample, number: int) -> Iterator[str]:
    """Yield the lines of reading *number* for a terminal, with the table's head when it is due."""
    if number % _HEAD_EVERY == 0:
        yield _row(_COLUMNS)
    yield f"{one.at[11:19]}  {one.problem}" if one.problem else _row(one.cells())


def _row(cells: tuple[str, ...]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
