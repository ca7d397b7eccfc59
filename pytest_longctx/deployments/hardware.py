"""Hardware that findings and deployments require, and the machine on which a run takes place."""

import re
from dataclasses import dataclass, field, replace

from pytest_longctx.deployments import accelerators
from pytest_longctx.deployments.cpu_speed import Speed

KINDS = (*accelerators.every(), "cpu")
"""Hardware kinds that files may name; `pytest_longctx.deployments.accelerators` describes them."""


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
"""CPU flags that decide which kernels an engine's CPU build uses. Results are comparable only if they agree."""


ANY_GPU = "GPU"
"""In a deployment, any GPU of NVIDIA or AMD, even if no file names it: ``1xGPU``. A machine never has this kind."""

_SIZED = re.compile(r"(?:([1-9][0-9]{0,5})x)?([0-9]{1,7}(?:\.[0-9]{1,3})?)gib", re.IGNORECASE)
_OTHER_KINDS = {"cpu": "cpu", "gpu": ANY_GPU}


@dataclass(frozen=True, slots=True)
class Hardware:
    """
    A number of devices of one kind: ``8xH200``, or ``4x80GiB`` by one device's memory as PyTorch reports it.

    A machine without accelerators is ``cpu``.
    """

    kind: str
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Hardware":
        """
        Return the hardware that *text* names, as in files and options: ``8xH200``. Raises ValueError.

        >>> Hardware.parse("8xH200"), Hardware.parse("cpu"), Hardware.parse("trn2.48xlarge")
        (Hardware(kind='H200', count=8), Hardware(kind='cpu', count=1), Hardware(kind='trn2', count=16))
        """
        if machine := accelerators.instance(text.lower()):
            return cls(*machine)
        if (sized := _SIZED.fullmatch(text)) and 0 < float(sized[2]) < 2**20:
            size = format(float(sized[2]), ".3f").rstrip("0").rstrip(".")
            return cls(f"{size}GiB", int(sized[1] or 1))
        match = re.fullmatch(r"(?:([1-9][0-9]{0,5})x)?(\w[\w -]*)", text)
        kind = None if match is None else _OTHER_KINDS.get(match[2].lower()) or accelerators.named(match[2])
        if match is None or kind is None:
            raise ValueError(
                f"{text[:100]!r} must be hardware: devices and their kind (8xH200), devices and the memory of each "
                f"(4x80GiB), or cpu. "
                f"Known kinds: {', '.join(KINDS)}"
            )
        return cls(kind, int(match[1] or 1))

    @classmethod
    def machine(cls, text: str) -> "Hardware":
        """
        Return the hardware of a machine that *text* names, as `parse`, but without ``1xGPU``, which names no kind.
        Raises ValueError.
        """
        hardware = cls.parse(text)
        if hardware.kind == ANY_GPU:
            raise ValueError(
                f"{text[:100]!r} names neither the kind nor the memory of the device; write for example 1xH100 or 1x24GiB"
            )
        return hardware

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.count}x{self.kind}"

    @property
    def device_gib(self) -> float | None:
        """Memory of one device in GiB, as PyTorch reports it; None for a CPU, or if unknown."""
        if sized := _SIZED.fullmatch(self.kind):
            return float(sized[2])
        known = accelerators.every().get(self.kind)
        return None if known is None else known.visible_gib

    @property
    def is_gpu(self) -> bool:
        """Whether the devices are GPUs, of a known kind or of a known size."""
        known = accelerators.every().get(self.kind)
        return self.kind not in _OTHER_KINDS.values() and (known is None or known.link != "neuronlink")

    def carries(self, wanted: "Hardware") -> bool:
        """Return whether a server that requires the hardware *wanted* can run on this hardware. Every machine has a CPU."""
        fitting = self.kind == wanted.kind or (wanted.kind == ANY_GPU and self.is_gpu)
        return wanted.kind == "cpu" or (fitting and self.count >= wanted.count)


INSTANCES = {
    "p5.48xlarge": "8xH100",
    "p5e.48xlarge": "8xH200",
    "p5en.48xlarge": "8xH200",
    "p6-b200.48xlarge": "8xB200",
    "trn1.32xlarge": "16xtrn1",
    "trn2.48xlarge": "16xtrn2",
}
"""AWS instance types by their devices."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a run. *hardware* is None if unknown, as for a server behind a URL."""

    hardware: Hardware | None
    facts: dict[str, str] = field(default_factory=dict)
    host_bytes: float | None = None
    """Memory of the host; None if an option named the hardware, or if it cannot be read."""
    cpu_flags: frozenset[str] | None = None
    """The `CPU_FLAGS` of the machine's processor; None for another machine, or if they cannot be read."""
    speed: Speed | None = None
    """Measured speed of the machine's CPU; None if not measured."""

    def measured(self, speed: Speed | None) -> "Machine":
        """
        Return this machine with the measured CPU speed, and without the instruction sets that the engine reports as
        missing.
        """
        if speed is None:
            return self
        flags = None if self.cpu_flags is None else self.cpu_flags - speed.lacks
        return replace(self, facts={**self.facts, **speed.facts()}, cpu_flags=flags, speed=speed)
