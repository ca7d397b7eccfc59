"""NVIDIA devices: detected with ``nvidia-smi``, sampled with NVML (extra ``[nvidia]``), which no other module calls."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pytest_longctx.devices import Device, Holder, printed, wanted

pynvml: Any = None
"""The driver's library, imported with the first `Nvml`. Detection does not need it."""


def detected() -> list[str]:
    """Return a line for each NVIDIA device: its name, memory and driver."""
    lines = printed("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    return [line.strip() for line in lines if line.strip()]


class Nvml:
    """Reader of NVIDIA devices with the driver's own library, in this process."""

    name = "NVML"
    every_s = 1.0

    def __init__(self, names: Sequence[str], count: int) -> None:
        global pynvml  # noqa: PLW0603 - an extra, which a machine without such devices does not have
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        found = wanted(names, count, pynvml.nvmlDeviceGetCount())
        handles = [_handle(name) for name in found]
        self._handles = {pynvml.nvmlDeviceGetIndex(handle): handle for handle in handles}

    def devices(self) -> tuple[Device, ...]:
        """Return a reading of every NVIDIA device."""
        return tuple(_look(index, handle) for index, handle in self._handles.items())

    def holders(self) -> tuple[Holder, ...]:
        """Return the compute processes on these NVIDIA devices."""
        return tuple(
            Holder(index, one.pid, one.usedGpuMemory)
            for index, handle in self._handles.items()
            for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        )

    def close(self) -> None:
        """Shut NVML down."""
        pynvml.nvmlShutdown()


def _handle(name: int | str) -> Any:
    """
    Return the NVML handle of the device with this index, or UUID prefix as CUDA accepts it. Raises LookupError for a
    MIG instance.
    """
    if isinstance(name, int):
        return pynvml.nvmlDeviceGetHandleByIndex(name)
    every = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    for handle in every:
        if pynvml.nvmlDeviceGetUUID(handle).startswith(name):
            return handle
    raise LookupError(f"there is no device {name}; a MIG instance (MIG-...) cannot be monitored")


def _look(index: int, handle: Any) -> Device:
    # The first version of this call counts the driver's own reserve as used memory.
    memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    power_mw = _asked(pynvml.nvmlDeviceGetPowerUsage, handle)
    rates = _asked(pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Device(
        index,
        used_bytes=None if memory is None else memory.used,
        power_w=None if power_mw is None else power_mw / 1000,
        clock_mhz=_asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=_asked(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        utilisation=None if rates is None else rates.gpu / 100,
    )


def _asked(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of *call* to NVML; None if this device or driver does not report the value."""
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None
