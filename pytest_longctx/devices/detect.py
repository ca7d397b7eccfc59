"""Detect this machine's accelerators (by the vendors' tools), processor and memory."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from pytest_longctx.deployments.hardware import CPU_FLAGS, KINDS, Hardware, Machine
from pytest_longctx.units import GiB, Mi

_ROCM_SMI = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")


def detect() -> Machine:
    """Detect NVIDIA devices by ``nvidia-smi``, AMD by ``rocm-smi``, Neuron by ``neuron-ls``; without any, return a CPU."""
    host_bytes = _host_bytes()
    facts = {"host_system": f"{platform.system()} {platform.release()}", **_host(host_bytes)}
    names = _nvidia() or _amd(_printed(*_ROCM_SMI)) or _neuron(_printed("neuron-ls", "--json-output"))
    if not names:
        return Machine(Hardware("cpu"), facts, host_bytes, cpu_flags())
    facts["devices"] = "; ".join(sorted(set(names)))
    kinds = Counter(kind for name in names if (kind := _kind_of(name)))
    return Machine(Hardware(*kinds.most_common(1)[0]) if kinds else None, facts, host_bytes, cpu_flags())


def _host(host_bytes: float | None, cpu: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Facts on the processor, its flags that decide an engine's kernels, and the memory; unknown facts are left out."""
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
    """Name and flags of the first processor; on ARM the flags are called ``Features``, and there is no name."""
    try:
        text = cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return {}
    return dict(reversed(re.findall(r"^(model name|flags|Features)\s*:[ ]*(.*)$", text, re.MULTILINE)))


def cpu_flags(cpu: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Those of `CPU_FLAGS` that this machine's processor has; None if unknown."""
    rows = _cpu_rows(cpu)
    reported = rows.get("flags", rows.get("Features"))
    return None if reported is None else frozenset(CPU_FLAGS) & frozenset(reported.split())


def _host_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> float | None:
    """Memory of the host in bytes, or the container's limit if that is lower; None if unknown."""
    try:
        host = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None
    try:
        return min(host, float(limit.read_text(encoding="ascii")))
    except (ValueError, OSError):  # "max", or no limit file
        return host


def _nvidia() -> list[str]:
    """One line per device: name, memory and driver."""
    lines = _printed("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _kind_of(name: str) -> str | None:
    # trn1n, an instance type with a faster network, has the same devices as trn1.
    return next((kind for kind in KINDS if kind != "cpu" and re.search(rf"\b{kind}n?\b", name, re.IGNORECASE)), None)


def _amd(text: str) -> list[str]:
    """One line per device with the reported name, memory and driver; the case of the keys changed with ROCm 6."""
    report = _json(text)
    if not isinstance(report, dict):
        return []
    system = report.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    found = []
    for name, row in report.items():
        if not (re.fullmatch(r"card\d+", name) and isinstance(row, dict)):
            continue
        reported = {key.lower(): str(value) for key, value in row.items()}
        # If the driver does not know a card's name, its series is the model's text or a number.
        called = " ".join(
            dict.fromkeys(reported[key] for key in ("card series", "card model", "market name") if key in reported)
        )
        size = reported.get("vram total memory (b)", "")
        memory = f"{int(size) // Mi} MiB" if size.isdecimal() else ""
        found.append(", ".join(filter(None, (called, memory, driver))))
    return found


def _neuron(text: str) -> list[str]:
    """One line per device: instance type, cores as the runtime counts them, and memory."""
    report = _json(text)
    if not isinstance(report, list):
        return []
    # Tools before 2.20 do not report the instance type; the firmware does.
    here = _firmware()
    return [
        f"{row.get('instance_type') or here}, {row.get('nc_count')} cores, {row.get('memory_size', 0) // Mi} MiB"
        for row in report
        if isinstance(row, dict)
    ]


def _firmware(product: Path = Path("/sys/devices/virtual/dmi/id/product_name")) -> str:
    try:
        return product.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def _json(text: str) -> Any:
    """Parse the JSON document in *text*, after any warnings; None if there is none."""
    start = re.search(r"^[\[{]", text, re.MULTILINE)
    try:
        return json.loads(text[start.start() :]) if start else None
    except ValueError:
        return None


def _printed(*argv: str) -> str:
    """Output of a vendor's tool; empty if the tool is missing, times out or fails."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
