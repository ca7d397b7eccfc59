"""Hardware that findings and deployments ask for, and the machine that a run happened on."""

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
