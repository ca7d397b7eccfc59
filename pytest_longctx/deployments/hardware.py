"""Hardware that findings and deployments require, and the machine of a run."""

import re
from dataclasses import dataclass, field, replace

from pytest_longctx.deployments.cpu_speed import Speed

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
"""Hardware kinds that files may name; a device has the first kind whose name occurs in the device's name."""


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
"""CPU flags that decide which kernels an engine's CPU build uses, and so whether results are comparable."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A number of devices of one kind: ``8xH200``; a machine without accelerators is ``cpu``."""

    kind: str
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Hardware":
        """
        Parse the spelling used in files and options. Raises ValueError.

        >>> Hardware.parse("8xH200"), Hardware.parse("cpu")
        (Hardware(kind='H200', count=8), Hardware(kind='cpu', count=1))
        """
        match = re.fullmatch(r"(?:([1-9][0-9]{0,5})x)?(\w+)", text)
        kinds = {kind.lower(): kind for kind in KINDS}
        if match is None or match[2].lower() not in kinds:
            raise ValueError(f"{text[:100]!r} is not hardware; write 8xH200 or cpu. Known kinds: {', '.join(KINDS)}")
        return cls(kinds[match[2].lower()], int(match[1] or 1))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.count}x{self.kind}"

    def carries(self, wanted: "Hardware") -> bool:
        """Whether a server for *wanted* can run here; every machine has a CPU."""
        return wanted.kind == "cpu" or (self.kind == wanted.kind and self.count >= wanted.count)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a run; *hardware* is None if nothing is known of it (a server behind a URL)."""

    hardware: Hardware | None
    facts: dict[str, str] = field(default_factory=dict)
    host_bytes: float | None = None
    """Memory of the host; None if the hardware was given by an option, or cannot be read."""
    cpu_flags: frozenset[str] | None = None
    """Those of `CPU_FLAGS` that its processor has; None for another machine, or if they cannot be read."""
    speed: Speed | None = None
    """Measured speed of its CPU; None if nothing was measured."""

    def measured(self, speed: Speed | None) -> "Machine":
        """A copy with the measured CPU speed, and without the instruction sets that the engine reports as missing."""
        if speed is None:
            return self
        flags = None if self.cpu_flags is None else self.cpu_flags - speed.lacks
        return replace(self, facts={**self.facts, **speed.facts()}, cpu_flags=flags, speed=speed)
