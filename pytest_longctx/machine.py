"""What hardware this is, and what a finding or a deployment asks for."""

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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


def detect() -> Machine:
    """Look at this machine: NVIDIA devices by ``nvidia-smi``, AMD by ``rocm-smi``, Neuron by ``neuron-ls``, else a CPU."""
    facts = {"host_system": f"{platform.system()} {platform.release()}", "host_cpu": platform.machine()}
    names = _nvidia() or _lines("rocm-smi", "--showproductname", "--csv") or _lines("neuron-ls")
    kinds = Counter(kind for name in names if (kind := _kind_of(name)))
    if kinds:
        kind, count = kinds.most_common(1)[0]
        return Machine(Hardware(kind, count), {**facts, "devices": "; ".join(sorted(set(names)))}, _host_bytes())
    if names:
        return Machine(None, {**facts, "devices": "; ".join(sorted(set(names)))}, _host_bytes())
    return Machine(Hardware("cpu"), facts, _host_bytes())


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
    return _lines("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def _kind_of(name: str) -> str | None:
    return next((kind for kind in KINDS if kind != "cpu" and re.search(rf"\b{kind}\b", name, re.IGNORECASE)), None)


def _lines(*argv: str) -> list[str]:
    """What a vendor's tool prints, by lines; nothing where the tool is missing, slow or unhappy."""
    if shutil.which(argv[0]) is None:
        return []
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
