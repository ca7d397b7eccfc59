"""Detect this machine's accelerators (with the vendors' tools), processor and memory."""

import os
import platform
import re
from collections import Counter
from pathlib import Path
from typing import Final, Protocol

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.hardware import CPU_FLAGS, Hardware, Machine
from pytest_longctx.devices import amd, neuron, nvidia
from pytest_longctx.units import GiB, Mi

_VISIBLE: Final = 0.985
"""
Least ratio of the device memory by PyTorch to the figure of the vendor's tool: 23.64 of 23.99 GiB on an RTX
4090.
"""
_ALIKE: Final = (0.93, 1.08)
"""Allowed ratio of reported memory to PyTorch's figure for devices that are the same."""


class _Make(Protocol):
    """Protocol of the module for one make of accelerators."""

    def detected(self) -> list[str]:
        """Return a line for each device of this machine. Raises ValueError for unexpected output of the vendor's tool."""


def _asked(make: _Make) -> list[str]:
    try:
        return make.detected()
    except ValueError:
        return []


def detect() -> Machine:
    """
    Return this machine: NVIDIA devices by ``nvidia-smi``, AMD by ``rocm-smi``, Neuron by ``neuron-ls``; without any, a
    CPU.
    """
    host_bytes = _host_bytes()
    facts = {"host_system": f"{platform.system()} {platform.release()}", **_host(host_bytes)}
    of_nvidia = _asked(nvidia)
    names = of_nvidia or _asked(amd) or _asked(neuron)
    if not names:
        return Machine(Hardware("cpu"), facts, host_bytes, cpu_flags())
    facts["devices"] = "; ".join(sorted(set(names)))
    # trn1n, an instance type with a faster network, has the same devices as trn1.
    kind_of = _kind_of_nvidia if of_nvidia else accelerators.kind_in
    kinds = Counter(kind for name in names if (kind := kind_of(name)))
    return Machine(Hardware(*kinds.most_common(1)[0]) if kinds else None, facts, host_bytes, cpu_flags())


def _host(host_bytes: float | None, cpu: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return known facts about this machine's processor, its flags that decide an engine's kernels, and the memory."""
    rows = _cpu_rows(cpu)
    flags = cpu_flags(cpu) or ()
    found = {
        "host_cpu": platform.machine(),
        "host_cpu_name": rows.get("model name", ""),
        "host_cpu_flags": " ".join(flag for flag in CPU_FLAGS if flag in flags),
        "host_cores": str(os.cpu_count() or ""),
        "host_memory_gib": "" if host_bytes is None else f"{host_bytes / GiB:.1f}",
    }
    return {name: value for name, value in found.items() if value}


def _cpu_rows(cpu: Path) -> dict[str, str]:
    """
    Return name and flags of this machine's first processor. On ARM, the flags are called ``Features`` and there is no
    name.
    """
    try:
        text = cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return {}
    return dict(reversed(re.findall(r"^(model name|flags|Features)\s*:[ ]*(.*)$", text, re.MULTILINE)))


def cpu_flags(cpu: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Return the `CPU_FLAGS` that this machine's processor has; None if unknown."""
    rows = _cpu_rows(cpu)
    reported = rows.get("flags", rows.get("Features"))
    return None if reported is None else frozenset(CPU_FLAGS) & frozenset(reported.split())


def _host_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float | None:
    """Return the memory of the host in bytes, or the container's limit if that is lower; None if unknown."""
    try:
        host = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None
    try:
        return min(host, float(limit.read_text(encoding="ascii")))
    except (ValueError, OSError):  # "max", or no limit file
        return host


def _kind_of_nvidia(device: str) -> str | None:
    """
    Return the kind of an NVIDIA GPU: its known name if the memory agrees, otherwise its size; None if both are unknown.

    A part of a GPU (a vGPU) and variants with more memory have the name of the whole GPU.
    """
    kind = accelerators.kind_in(device)
    told = re.search(r", (\d+) MiB", device)
    known_gib = Hardware(kind).device_gib if kind else None
    if told is None or (kind and known_gib is None):
        return kind
    gib = int(told[1]) * Mi / GiB
    if known_gib and _ALIKE[0] <= gib / known_gib <= _ALIKE[1]:
        return kind
    return f"{int(gib * _VISIBLE)}GiB" if gib * _VISIBLE >= 1 else None
