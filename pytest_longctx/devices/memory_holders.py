"""Processes that hold device memory: find them, refuse to boot beside them, and wait until they release it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pytest_longctx.devices import Device, Holder
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.redaction import masked, secret_values
from pytest_longctx.units import GiB

_PROCESS_BYTES: Final = 256 * 1024**2
"""Memory that another process may hold during a boot: less than one CUDA context."""
_UNOWNED_BYTES: Final = 1024**3
"""Memory that may be in use without a known process. AMD's driver holds about 300 MiB of each device."""
_BACK_S: Final = 10.0
"""Seconds within which a stopped server must release its memory."""
_POLL_S: Final = 0.5
GONE: Final = "it has ended or is in another PID namespace"


class Look(NamedTuple):
    """One reading of the devices' memory, and of the processes that hold it."""

    devices: Sequence[Device] = ()
    holders: Sequence[Holder] = ()


def memory_holders(now: Look, before: Look = Look()) -> list[str]:  # noqa: B008 - a value, and an empty one
    """Return one line for each process that holds device memory *now* and did not *before*."""
    known = {(one.device, one.pid) for one in before.holders}
    lines = []
    for device in now.devices:
        for one in now.holders:
            small = one.used_bytes is not None and one.used_bytes <= _PROCESS_BYTES
            if one.device == device.index and (one.device, one.pid) not in known and not small:
                lines.append(
                    f"device {device.index}: {_size(one.used_bytes)} in use by pid {one.pid}: {command(one.pid)}"
                )
        rest = _unowned_bytes(device, now) - sum(
            _unowned_bytes(old, before) for old in before.devices if old.index == device.index
        )
        if rest > _UNOWNED_BYTES:
            lines.append(f"device {device.index}: {_size(rest)} in use by a process that is not visible ({GONE})")
    return lines


def _unowned_bytes(device: Device, look: Look) -> float:
    """Return the bytes in use on *device* beyond the bytes of its known processes; 0 if either number is unknown."""
    sizes = [one.used_bytes for one in look.holders if one.device == device.index]
    if device.used_bytes is None or None in sizes:
        return 0.0
    return max(0.0, device.used_bytes - sum(size for size in sizes if size is not None))


def _size(used_bytes: float | None) -> str:
    return "an unknown amount" if used_bytes is None else f"{used_bytes / GiB:.2f} GiB"


def command(pid: int) -> str:
    """Return the command line of *pid*, which holds device memory, with secrets masked."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        arguments = []
    return masked(" ".join(arguments).strip(), secret_values({}, arguments))[:160] or GONE


def refuse(name: str, asked: str, source: str, found: Sequence[str]) -> None:
    """Raise `LaunchError` if another process holds memory that the deployment *name* needs."""
    if not found:
        return
    rows = [
        f"{name} was not booted: another process holds memory of its device",
        f"  asked    {asked}",
        *(f"  found    {line}" for line in found),
        f"  checked  {source}: the memory in use on each device, and the processes that hold it",
        (
            "  try      end that process, select another device by CUDA_VISIBLE_DEVICES or [docker] gpus, or pass "
            "--longctx-allow-busy-gpu"
        ),
    ]
    raise LaunchError("\n".join(rows))


def await_release(look: Callable[[], Look], before: Look, most_s: float = _BACK_S) -> list[str]:
    """
    Wait until memory taken since *before* is released. Return a line for each process that still holds memory after
    *most_s* seconds.
    """
    return wait_until(lambda: memory_holders(look(), before), most_s, _POLL_S, done=lambda lines: not lines)
