"""What this machine is: its accelerators, as their vendors' tools tell them, its processor and its memory."""

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
    """Look at this machine: NVIDIA devices by ``nvidia-smi``, AMD by ``rocm-smi``, Neuron by ``neuron-ls``, else a CPU."""
    host_bytes = _host_bytes()
    facts = {"host_system": f"{platform.system()} {platform.release()}", **_host(host_bytes)}
    names = _nvidia() or _amd(_printed(*_ROCM_SMI)) or _neuron(_printed("neuron-ls", "--json-output"))
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


def _nvidia() -> list[str]:
    """A line for each device: its name, memory and driver."""
    lines = _printed("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _kind_of(name: str) -> str | None:
    # An instance with a faster network, trn1n, has the same devices.
    return next((kind for kind in KINDS if kind != "cpu" and re.search(rf"\b{kind}n?\b", name, re.IGNORECASE)), None)


def _amd(text: str) -> list[str]:
    """A line for each device: its name, memory and driver, as far as they are told; the keys' case changed with ROCm 6."""
    said = _json(text)
    if not isinstance(said, dict):
        return []
    system = said.get("system")
    driver = str(system.get("Driver version", "")) if isinstance(system, dict) else ""
    found = []
    for name, row in said.items():
        if not (re.fullmatch(r"card\d+", name) and isinstance(row, dict)):
            continue
        told = {key.lower(): str(value) for key, value in row.items()}
        # Where the driver has no name for a card, its series stands with its model, or is a number.
        called = " ".join(
            dict.fromkeys(told[key] for key in ("card series", "card model", "market name") if key in told)
        )
        size = told.get("vram total memory (b)", "")
        memory = f"{int(size) // Mi} MiB" if size.isdecimal() else ""
        found.append(", ".join(filter(None, (called, memory, driver))))
    return found


def _neuron(text: str) -> list[str]:
    """A line for each device: the kind of instance, cores as the runtime counts them, and memory."""
    said = _json(text)
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


def _json(text: str) -> Any:
    """The document in *text*, which may have warnings before it; None where there is none."""
    start = re.search(r"^[\[{]", text, re.MULTILINE)
    try:
        return json.loads(text[start.start() :]) if start else None
    except ValueError:
        return None


def _printed(*argv: str) -> str:
    """What a vendor's tool prints; nothing where the tool is missing, slow or unhappy."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
