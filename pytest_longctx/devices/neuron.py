"""
Neuron devices, read by ``neuron-ls`` and ``neuron-monitor``. Written from published output, not yet run on such a
device.
"""

import json
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_longctx.devices import Device, Holder, document, printed
from pytest_longctx.units import Mi


def detected() -> list[str]:
    """Return a line for each Neuron device: the instance type, cores as the runtime counts them, and memory."""
    said = document(printed("neuron-ls", "--json-output"))
    if not isinstance(said, list):
        return []
    # Tools before 2.20 leave the instance out; the firmware of an instance has its name.
    here = _firmware()
    return [
        f"{row.get('instance_type') or here}, {row.get('nc_count')} cores, {row.get('memory_size', 0) // Mi} MiB"
        for row in said
        if isinstance(row, dict)
    ]


def _firmware(product: Path = Path("/sys/devices/virtual/dmi/id/product_name")) -> str:
    try:
        return product.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


class NeuronMonitor:
    """
    Reader of Neuron devices with AWS's own tool, which prints a report of all devices every few seconds until it is
    stopped.
    """

    name = "neuron-monitor"
    every_s = 5.0

    def __init__(self, names: Sequence[str], count: int) -> None:
        self._last: str | None = None
        null = subprocess.DEVNULL
        self._tool = subprocess.Popen(["neuron-monitor"], stdin=null, stdout=subprocess.PIPE, stderr=null, text=True)
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        with self._tool:  # closes the pipe and waits for the tool to exit
            for line in self._tool.stdout or ():
                self._last = line

    def devices(self) -> tuple[Device, ...]:
        """Return the devices of the last report; empty before the first report. Raises OSError after the tool has exited."""
        if (code := self._tool.poll()) is not None:
            raise OSError(f"the tool exited with code {code}")
        return () if self._last is None else read_devices(self._last)

    def holders(self) -> tuple[Holder, ...]:
        """Return the runtime processes of the last report of ``neuron-monitor``."""
        return () if self._last is None else read_holders(self._last)

    def close(self) -> None:
        """Stop ``neuron-monitor``."""
        self._tool.kill()
        self._reader.join()


def read_devices(text: str) -> tuple[Device, ...]:
    """Return memory and mean core utilisation of each device in one report of ``neuron-monitor``. Raises ValueError."""
    report = json.loads(text)
    count, cores = _hardware(report)
    runtimes = report.get("neuron_runtime_data") or ()
    memory = [_at(one, *_MEMORY) for one in runtimes]
    counters = [_at(one, "report", "neuroncore_counters", "neuroncores_in_use") for one in runtimes]
    # If one runtime does not report, the sum over all is not known; without any runtime it is zero.
    used = None if None in memory else _sums(memory, cores, lambda parts: sum(parts.values()))
    busy = None if None in counters else _sums(counters, cores, lambda one: one["neuroncore_utilization"] / 100 / cores)
    return tuple(
        Device(
            index,
            used_bytes=None if used is None else used[index],
            utilisation=None if busy is None else round(busy[index], 4),
        )
        for index in range(count)
    )


def read_holders(text: str) -> tuple[Holder, ...]:
    """Return the processes in one report of ``neuron-monitor``, and the memory of each on each device. Raises ValueError."""
    report = json.loads(text)
    _, cores = _hardware(report)
    return tuple(
        Holder(device, one["pid"], size)
        for one in report.get("neuron_runtime_data") or ()
        for device, size in _sums([_at(one, *_MEMORY)], cores, lambda parts: sum(parts.values())).items()
        if size
    )


_MEMORY = ("report", "memory_used", "neuron_runtime_used_bytes", "usage_breakdown", "neuroncore_memory_usage")


def _hardware(report: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of Neuron devices, and of cores per device."""
    reported = report["neuron_hardware_info"]
    return reported["neuron_device_count"], reported["neuroncore_per_device_count"]


def _at(row: Any, *path: str) -> dict[str, Any] | None:
    for key in path:
        row = row.get(key) if isinstance(row, dict) else None
    return row if isinstance(row, dict) else None


def _sums(
    runtimes: Iterable[Mapping[str, Any] | None], cores: int, of: Callable[[Mapping[str, Any]], float]
) -> dict[int, float]:
    """Return the sum over the runtimes' cores for each Neuron device. Cores are numbered across the whole machine."""
    found: dict[int, float] = defaultdict(float)
    for each in runtimes:
        for core, one in (each or {}).items():
            found[int(core) // cores] += of(one)
    return found
