"""Devices and host memory of a plan, as they are typed."""

from dataclasses import dataclass

from pytest_longctx.deployments.capacity import DEVICE_GIB
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import UsageError
from pytest_longctx.units import GiB

_SIZED = "GiB"
_INSTANCES = {
    "p5.48xlarge": "8xH100",
    "p5e.48xlarge": "8xH200",
    "p5en.48xlarge": "8xH200",
    "p6-b200.48xlarge": "8xB200",
    "trn1.32xlarge": "16xtrn1",
    "trn2.48xlarge": "16xtrn2",
}
"""Instances of AWS by what they hold."""


@dataclass(frozen=True, slots=True)
class Place:
    """The devices of a plan and the memory of one of their hosts."""

    hardware: Hardware
    device_bytes: float
    host_bytes: float | None = None
    """None: not known."""
    hosts: int = 1
    """Hosts that share the server; *host_bytes* is that of all."""

    @classmethod
    def parse(cls, text: str, host_bytes: float | None = None) -> "Place":
        """
        Read ``8xH100``, or ``4x80GiB`` for devices of any make. Raises `UsageError`.

        >>> Place.parse("4x80GiB").device_bytes == 80 * 1024**3
        True
        """
        text = _INSTANCES.get(text.lower(), text)
        count, cross, kind = text.partition("x") if text[:1].isdecimal() else ("1", "x", text)
        if cross and count.isdecimal() and int(count) and kind.lower().endswith("gib"):
            try:
                size = float(kind[:-3])
            except ValueError:
                size = 0.0
            if 0 < size < 2**20:
                return cls(Hardware(f"{kind[:-3]}{_SIZED}", int(count)), size * GiB, host_bytes)
        try:
            hardware = Hardware.parse(text)
        except ValueError as problem:
            raise UsageError(f"--hardware: {problem}\n  try      the size of one device, as in 4x80GiB") from None
        if hardware.kind not in DEVICE_GIB and hardware.kind != "cpu":
            raise UsageError(
                f"--hardware {text}: the memory of one {hardware.kind} is not known here\n"
                f"  known    {', '.join(sorted(DEVICE_GIB))}\n"
                f"  try      its size in GiB, as the engine sees it: {hardware.count}x80GiB"
            )
        return cls(hardware, DEVICE_GIB.get(hardware.kind, 0.0) * GiB, host_bytes)

    def __str__(self) -> str:
        return str(self.hardware)
