"""Hardware that findings and deployments require, and the machine of a run."""

import re
from dataclasses import dataclass, field, replace

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.cpu_speed import Speed

KINDS = (*accelerators.every(), "cpu")
"""Hardware kinds that files may name; what each is, see `pytest_longctx.deployments.accelerators`."""


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

        >>> Hardware.parse("8xH200"), Hardware.parse("cpu"), Hardware.parse("trn2.48xlarge")
        (Hardware(kind='H200', count=8), Hardware(kind='cpu', count=1), Hardware(kind='trn2', count=16))
        """
        if machine := accelerators.instance(text.lower()):
            return cls(*machine)
        match = re.fullmatch(r"(?:([1-9][0-9]{0,5})x)?(\w[\w -]*)", text)
        kind = None if match is None else "cpu" if match[2].lower() == "cpu" else accelerators.named(match[2])
        if match is None or kind is None:
            raise ValueError(f"{text[:100]!r} is not hardware; write 8xH200 or cpu. Known kinds: {', '.join(KINDS)}")
        return cls(kind, int(match[1] or 1))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.count}x{self.kind}"

    def carries(self, wanted: "Hardware") -> bool:
        """Whether a server for *wanted* can run here; every machine has a CPU."""
        return wanted.kind == "cpu" or (self.kind == wanted.kind and self.count >= wanted.count)


INSTANCES = {
    "p5.48xlarge": "8xH100",
    "p5e.48xlarge": "8xH200",
    "p5en.48xlarge": "8xH200",
    "p6-b200.48xlarge": "8xB200",
    "trn1.32xlarge": "16xtrn1",
    "trn2.48xlarge": "16xtrn2",
}
"""Instances of AWS by what they hold."""


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
