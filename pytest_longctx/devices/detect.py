"""What this machine is: its accelerators, as their vendors' tools tell them, its processor and its memory."""

import os
import platform
import re
from collections import Counter
from pathlib import Path
from typing import Protocol

from pytest_longctx.deployments.hardware import CPU_FLAGS, KINDS, Hardware, Machine
from pytest_longctx.devices import amd, neuron, nvidia
from pytest_longctx.units import GiB


class _Make(Protocol):
    """The module of one make of accelerators."""

    def detected(self) -> list[str]:
        """A line for each device of this machine. Raises ValueError where its tool prints something else."""


def _asked(make: _Make) -> list[str]:
    try:
        return make.detected()
    except ValueError:
        return []


def detect() -> Machine:
    """Look at this machine: NVIDIA devices by ``nvidia-smi``, AMD by ``rocm-smi``, Neuron by ``neuron-ls``, else a CPU."""
    host_bytes = _host_bytes()
    facts = {"host_system": f"{platform.system()} {platform.release()}", **_host(host_bytes)}
    names = next(filter(None, map(_asked, (nvidia, amd, neuron))), [])
    if not names:
        return Machine(Hardware("cpu"), facts, host_bytes, cpu_flags())
    facts["devices"] = "; ".join(sorted(set(names)))
    kinds = Counter(kind for name in names if (kind := _kind_of(name)))
    return Machine(Hardware(*kinds.most_common(1)[0]) if kinds else None, facts, host_bytes, cpu_flags())


def _host(host_bytes: float | None, cpu: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The processor, those of its flags that engines choose their kernels by, and the memory, as far as they can be known."""
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
    """Of the first of its processors the name and the flags; ARM has ``Features`` for ``flags``, and no name."""
    try:
        text = cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return {}
    return dict(reversed(re.findall(r"^(model name|flags|Features)\s*:[ ]*(.*)$", text, re.MULTILINE)))


def cpu_flags(cpu: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Those of `CPU_FLAGS` that the processor of this machine has; None where that cannot be known."""
    rows = _cpu_rows(cpu)
    said = rows.get("flags", rows.get("Features"))
    return None if said is None else frozenset(CPU_FLAGS) & frozenset(said.split())


def _host_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float | None:
    """Of the host, or of the container that this is in, where that may have less."""
    try:
        host = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None
    try:
        return min(host, float(limit.read_text(encoding="ascii")))
    except (ValueError, OSError):  # "max", or none
        return host


def _kind_of(name: str) -> str | None:
    # An instance with a faster network, trn1n, has the same devices.
    return next((kind for kind in KINDS if kind != "cpu" and re.search(rf"\b{kind}n?\b", name, re.IGNORECASE)), None)
