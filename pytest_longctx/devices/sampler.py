"""Sample devices, host memory and server metrics while a server runs."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Final, Self

import httpx

from pytest_longctx.client import server_metrics
from pytest_longctx.client.http_client import PageClient
from pytest_longctx.client.server import Server
from pytest_longctx.devices import Source, figures
from pytest_longctx.processes import clock
from pytest_longctx.processes._supervisor import descendants
from pytest_longctx.units import GiB

_ROW = re.compile(rb"^(VmRSS|RssAnon):\s+(\d+) kB", re.MULTILINE)


def host_figures(pids: Iterable[int]) -> dict[str, float]:
    """
    Return the resident memory of *pids* together, in GiB; empty if none of them can be read.

    ``host_rss_gib`` counts a shared page once per process, so it is an upper bound. ``host_anonymous_gib`` leaves out
    files and shared memory, so it is roughly a lower bound. The exact value needs ``smaps_rollup``, which walks every
    page of a server and only its owner can read.
    """
    sums = {b"VmRSS": 0, b"RssAnon": 0}
    seen = False
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
        except OSError:  # the process exited meanwhile
            continue
        for name, kib in _ROW.findall(status):
            sums[name] += int(kib)
            seen = True
    if not seen:
        return {}
    return {
        "host_rss_gib": round(sums[b"VmRSS"] * 1024 / GiB, 3),
        "host_anonymous_gib": round(sums[b"RssAnon"] * 1024 / GiB, 3),
    }


PERIOD_S: Final = 1.0
"""Sampling interval. NVIDIA's power reading is a mean over one second, so shorter intervals add nothing."""
_FRESH_S: Final = 0.25
"""Age in seconds above which a new sample is taken."""
_LOOKS: Final = 5
"""Number of samples needed for a share of time."""
_SCRAPE_S: Final = 1.0
"""Timeout in seconds of a scrape of the server's gauges. A sample without an answer omits them."""

Tell = Callable[[Mapping[str, Any]], None]
"""Callback that gets one row of results, from any thread."""


def unheard(row: Mapping[str, Any]) -> None:
    """Discard a row of samples: the default for a sampler whose rows are not recorded."""


class Sampler:
    """Sampler with a thread of its own. Values that cannot be read are omitted, and the reason is recorded once."""

    def __init__(self, deployment: str = "", tell: Tell = unheard, source: Source | None = None) -> None:
        self._deployment, self._tell, self._source = deployment, tell, source
        self._root: int | None = None
        self._http: httpx.Client | None = None
        self._server: Server | None = None
        self._due_s = self._devices_due_s = float("-inf")
        self._looks: list[tuple[float, dict[str, float], float | None]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longctx-pulse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._root, self._source = None, None
            if self._http is not None:
                self._http.close()
                self._http = None

    def _run(self) -> None:
        while not self._over.wait(max(0.0, self._due_s - time.monotonic())):
            if time.monotonic() >= self._due_s:
                self.beat()

    def hold_still(self) -> None:
        """Delay the next sample by one second, because a request begins that a sample could disturb."""
        with self._lock:
            self._due_s = time.monotonic() + PERIOD_S

    def below(self, pid: int) -> None:
        """Set the parent *pid* of the server's processes, which are sampled without the parent itself."""
        self._root = pid

    def attend(self, server: Server) -> None:
        """Sample also the gauges of *server*, which is running now."""
        with self._lock:
            self._http = PageClient(
                base_url=server.url,
                headers=dict(server.headers),
                timeout=_SCRAPE_S,
                trust_env=not server.local,
                verify=server.secure,
            )
            self._server = server

    def say(self, what: str) -> None:
        """Record a message as a row without figures among the samples."""
        self._tell({"deployment": self._deployment, "at_s": clock.unix_s(), "figures": {}, "said": what})

    def beat(self) -> None:
        """Take one sample now."""
        with self._lock:
            self._due_s = time.monotonic() + PERIOD_S
            found = {**self._of_devices(), **self._of_host(), **self._of_server()}
            if found:
                self._looks.append((time.monotonic(), _highest(found), _busy(found)))
                self._tell({"deployment": self._deployment, "at_s": clock.unix_s(), "figures": found})

    def peaks(self, since_s: float, until_s: float) -> dict[str, float]:
        """
        Return the highest memory use between *since_s* and *until_s*, two times of the monotonic clock.

        If the interval has no sample, the nearest one counts, because engines do not release memory.
        """
        seen = [highest for at, highest, _ in self._looks if since_s <= at <= until_s]
        if not seen:
            if not self._looks or time.monotonic() - self._looks[-1][0] > _FRESH_S:
                self.beat()
            seen = [highest for _, highest, _ in self._looks[-1:]]
        names = dict.fromkeys(name for one in seen for name in one)
        return {name: max(one[name] for one in seen if name in one) for name in names}

    def meanwhile(self, since_s: float, until_s: float) -> dict[str, float]:
        """Return peaks as `peaks` does, and the devices' busy share if there are enough samples."""
        shares = [busy for at, _, busy in self._looks if busy is not None and since_s <= at <= until_s]
        share = {"device_busy_share": fmean(shares)} if len(shares) >= _LOOKS else {}
        return {**self.peaks(since_s, until_s), **share}

    def _of_devices(self) -> dict[str, Any]:
        if self._source is None or time.monotonic() < self._devices_due_s:
            return {}
        self._devices_due_s = time.monotonic() + self._source.every_s - PERIOD_S / 2
        try:
            return figures(self._source.devices())
        except Exception as problem:  # noqa: BLE001 - whatever a vendor's tool does, no test may fail by it
            self.say(f"{self._source.name} can no longer be read: {problem!r}")
            self._source = None
            return {}

    def _of_host(self) -> dict[str, float]:
        return {} if self._root is None else host_figures(descendants(self._root))

    def _of_server(self) -> dict[str, float]:
        if self._http is None or self._server is None:
            return {}
        seen = server_metrics.glance(self._http, self._server.backend.metrics)
        gauges = {"running": seen.running, "waiting": seen.waiting, "kv_usage": seen.kv_usage}
        return {name: value for name, value in gauges.items() if value is not None}


_PEAKS = {"device_memory_gib": "device_peak_gib", "host_rss_gib": "host_peak_gib"}


def _highest(found: Mapping[str, Any]) -> dict[str, float]:
    """
    Return the highest samples that findings may bound: memory of the fullest device, and host memory of all processes
    together.
    """
    values = {_PEAKS[name]: found[name] for name in _PEAKS if name in found}
    flat = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {name: max(value for value in some if value is not None) for name, some in flat.items()}


def _busy(found: Mapping[str, Any]) -> float | None:
    """Return the mean utilisation of the sampled devices; None if no device reports it."""
    shares = [share for share in found.get("device_utilisation", ()) if share is not None]
    return fmean(shares) if shares else None
