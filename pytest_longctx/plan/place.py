"""Devices and host memory of a plan, as given on the command line."""

from dataclasses import dataclass

from pytest_longctx.deployments.hardware import INSTANCES, Hardware
from pytest_longctx.errors import UsageError
from pytest_longctx.units import GiB


@dataclass(frozen=True, slots=True)
class Place:
    """The devices of a plan and the memory of one of their hosts."""

    hardware: Hardware
    device_bytes: float
    """Memory of one device; 0 if unknown, and for a CPU."""
    host_bytes: float | None = None
    """Memory of all hosts together; None if unknown."""
    hosts: int = 1
    """Number of hosts that share the server."""

    @classmethod
    def parse(cls, text: str, host_bytes: float | None = None) -> "Place":
        """
        Return the place of a plan that *text* names: ``8xH100``, or ``4x80GiB`` for devices of any make. Raises
        `UsageError`.

        >>> Place.parse("4x80GiB").device_bytes == 80 * 1024**3
        True
        """
        try:
            hardware = Hardware.machine(INSTANCES.get(text.lower(), text))
        except ValueError as problem:
            raise UsageError(f"--hardware: {problem}") from None
        return cls(hardware, (hardware.device_gib or 0.0) * GiB, host_bytes)

    def __str__(self) -> str:
        return str(self.hardware)
