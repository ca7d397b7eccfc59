"""What hardware this is, and what a finding or a deployment asks for."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_longctx.deployments.cpu_speed import Speed
from pytest_longctx.units import GiB, Mi

KINDS = (
    "H200",
    "H100",
    "H20",
    "B300",
    "B200",
    "GB200",
    "A100",
    "L40S",
    "MI300X",
    "MI325X",
    "MI355X",
    "trn1",
    "trn2",
    "cpu",
)
"""Hardware kinds that files may name; a device is of the first kind whose name occurs in its own."""

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
"""Flags of processors by which CPU builds of engines choose their kernels, and so what a run of one is worth."""

_ROCM_SMI = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")


@dataclass(frozen=True, slots=True)
class Hardware:
    """So many devices of one kind: ``8xH200``; a machine without accelerators is ``cpu``."""

    kind: str
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Hardware":
        """
        From what files and options say. Raises ValueError.

        >>> Hardware.parse("8xH200"), Hardware.parse("cpu")
        (Hardware(kind='H200', count=8), Hardware(kind='cpu', count=1))
        """
        match = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+)", text)
        kinds = {kind.lower(): kind for kind in KINDS}
        if match is None or match[2].lower() not in kinds:
            raise ValueError(f"{text!r} is no hardware; write 8xH200 or cpu. Known kinds: {', '.join(KINDS)}")
        return cls(kinds[match[2].lower()], int(match[1] or 1))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.count}x{self.kind}"

    def carries(self, wanted: "Hardware") -> bool:
        """Whether a server made for *wanted* can run here. Every machine has a CPU."""
        return wanted.kind == "cpu" or (self.kind == wanted.kind and self.count >= wanted.count)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine a run happened on: *hardware* is None where nothing is known of it (a server behind a URL)."""

    hardware: Hardware | None
    facts: dict[str, str] = field(default_factory=dict)
    host_bytes: float | None = None
    """Memory of the host; None where the hardware was typed, or cannot be looked at."""
    cpu_flags: frozenset[str] | None = None
    """Those of `CPU_FLAGS` that its processor has; None where it is another machine, or cannot be looked at."""
    speed: Speed | None = None
    """What its CPU was measured to do; None where nothing was measured."""

    def measured(self, speed: Speed | None) -> "Machine":
        """The same with what was measured of its CPU, and without the instructions that the engine says are not there."""
        if speed is None:
            return self
        flags = None if self.cpu_flags is None else self.cpu_flags - speed.lacks
        return replace(self, facts={**self.facts, **speed.facts()}, cpu_flags=flags, speed=speed)


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
