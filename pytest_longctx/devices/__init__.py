"""
Monitor devices and host: readings of the machine and the server during a boot and each request.

To add a make of accelerators, write its `detected()` and its `Source` in one new file of this package. Name the file in
`detect`, and the source in `pytest_longctx.registry`.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pytest_longctx.units import GiB


@dataclass(frozen=True, slots=True)
class Device:
    """One reading of one accelerator; None for a value that was not observed."""

    index: int
    used_bytes: float | None = None
    power_w: float | None = None
    clock_mhz: float | None = None
    """Clock of the compute units: NVIDIA's SM clock, AMD's graphics clock."""
    memory_clock_mhz: float | None = None
    utilisation: float | None = None
    """Share of the last sampling interval in which the device had work, 0 to 1."""


class Holder(NamedTuple):
    """A process that holds device memory."""

    device: int
    pid: int
    used_bytes: float | None = None


class Source(Protocol):
    """Base class of readers of a server's accelerators. Any exception means that they cannot be read."""

    name: str
    """Name of the library or tool, for messages."""
    every_s: float
    """Shortest polling interval, in seconds, that does not disturb the server."""

    def devices(self) -> tuple[Device, ...]:
        """Return a reading of every device; empty if no reading is available yet."""

    def holders(self) -> tuple[Holder, ...]:
        """Return the processes that hold device memory now, as far as the tool reports them."""

    def close(self) -> None:
        """Release all resources and end all processes of the source."""


def figures(devices: Sequence[Device]) -> dict[str, list[float | None]]:
    """
    Return the devices' gauges in the form of the results, one value for each device, without gauges that no device has.

    >>> figures([Device(0, used_bytes=2**31, power_w=92.5), Device(1, used_bytes=2**30)])
    {'device_memory_gib': [2.0, 1.0], 'device_power_w': [92.5, None]}
    """
    found = {
        "device_memory_gib": [None if one.used_bytes is None else round(one.used_bytes / GiB, 3) for one in devices],
        "device_power_w": [one.power_w for one in devices],
        "device_clock_mhz": [one.clock_mhz for one in devices],
        "device_memory_clock_mhz": [one.memory_clock_mhz for one in devices],
        "device_utilisation": [one.utilisation for one in devices],
    }
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def wanted(names: Sequence[str], count: int, there: int) -> list[int | str]:
    """
    Return the devices that a server uses: the devices in *names*, by index or UUID, or the first *count* of *there*
    devices.

    >>> wanted(("4", "GPU-8a5c"), 2, 8), wanted((), 2, 8)
    ([4, 'GPU-8a5c'], [0, 1])
    """
    return [int(name) if name.isdecimal() else name for name in names][:count] or list(range(min(count, there)))


def printed(*argv: str) -> str:
    """Return the output of a vendor's tool for its devices; empty if the tool is missing, too slow or fails."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def document(text: str) -> Any:
    """
    Return the JSON in *text*, the output of a vendor's tool, which may begin with warnings. Raises ValueError without
    JSON.
    """
    start = re.search(r"^[\[{]", text, re.MULTILINE)
    return json.loads(text[start.start() :] if start else text)
