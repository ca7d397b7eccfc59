"""
Monitor a server's devices: free before the boot, sampled while it runs, released after it stops.

Before a boot no process may hold memory of the devices; after the stop the server's processes may not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import Device, Holder, Source, leases
from pytest_longctx.devices.sampler import Sampler, Tell
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes.progress import wait_until
from pytest_longctx.redaction import masked, secret_values
from pytest_longctx.registry import DEVICES
from pytest_longctx.units import GiB

_PROCESS_BYTES: Final = 256 * 1024**2
"""Memory that another process may hold during a boot: less than one CUDA context."""
_UNOWNED_BYTES: Final = 1024**3
"""Memory that may be in use without a known process: AMD's driver holds about 300 MiB of each device."""
_BACK_S: Final = 10.0
"""Seconds within which a stopped server's memory must be released."""
_POLL_S: Final = 0.5
GONE: Final = "[pid gone or in another namespace]"


class Look(NamedTuple):
    """Memory of the devices, and the processes that hold it."""

    devices: Sequence[Device] = ()
    holders: Sequence[Holder] = ()


def memory_holders(now: Look, before: Look = Look()) -> list[str]:  # noqa: B008 - a value, and an empty one
    """One line for each process that holds device memory *now* and did not *before*."""
    known = {(one.device, one.pid) for one in before.holders}
    lines = []
    for device in now.devices:
        for one in now.holders:
            small = one.used_bytes is not None and one.used_bytes <= _PROCESS_BYTES
            if one.device == device.index and (one.device, one.pid) not in known and not small:
                lines.append(f"device {device.index}: {_size(one.used_bytes)} by pid {one.pid}: {command(one.pid)}")
        rest = _unowned_bytes(device, now) - sum(
            _unowned_bytes(old, before) for old in before.devices if old.index == device.index
        )
        if rest > _UNOWNED_BYTES:
            lines.append(f"device {device.index}: {_size(rest)} by no visible process: {GONE}")
    return lines


def _unowned_bytes(device: Device, look: Look) -> float:
    """Bytes in use on *device* beyond those of its known processes; 0 if one of the two is not known."""
    sizes = [one.used_bytes for one in look.holders if one.device == device.index]
    if device.used_bytes is None or None in sizes:
        return 0.0
    return max(0.0, device.used_bytes - sum(size for size in sizes if size is not None))


def _size(used_bytes: float | None) -> str:
    return "an unknown amount" if used_bytes is None else f"{used_bytes / GiB:.2f} GiB"


def command(pid: int) -> str:
    """The command line of *pid*, which holds device memory, with secrets masked."""
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
        "  try      end it, select another device by CUDA_VISIBLE_DEVICES or [docker] gpus, or pass --longctx-allow-busy-gpu",
    ]
    raise LaunchError("\n".join(rows))


def await_release(look: Callable[[], Look], before: Look, most_s: float = _BACK_S) -> list[str]:
    """Wait until memory taken since *before* is released; return one line for each process that holds some after *most_s*."""
    return wait_until(lambda: memory_holders(look(), before), most_s, _POLL_S, done=lambda lines: not lines)


@contextmanager
def monitored(
    deployment: Deployment,
    hardware: Hardware | None,
    env: Mapping[str, str],
    tell: Tell,
    *,
    contained: bool,
    allow_busy: bool,
) -> Iterator[Sampler]:
    """
    Monitor a server while the context lasts; pass each reading to *tell*.

    *hardware* is what the server uses of this machine, if it runs here; *env* may select the devices. *contained*: the server
    runs in a container. Raises `LaunchError` if another process holds memory of the devices, unless *allow_busy*. Memory that is
    not released after the server stops is reported.
    """
    source, trouble = _open(deployment, hardware, env, contained=contained)
    pulse = Sampler(deployment.name, tell, source)
    if trouble:
        pulse.say(trouble)
    try:
        before = _look(source, pulse)
        if before is not None and source is not None and not allow_busy:
            refuse(deployment.name, str(hardware), source.name, memory_holders(before))
        with pulse:
            yield pulse
        if before is not None and source is not None:
            for line in await_release(lambda: _look(source, pulse) or before, before):
                pulse.say(f"{deployment.name} has stopped, but its memory was not released: {line}")
    finally:
        if source is not None:
            source.close()


def _look(source: Source | None, pulse: Sampler) -> Look | None:
    """Read the devices and their memory holders; None, with the reason recorded, if that fails."""
    if source is None:
        return None
    try:
        return Look(source.devices(), source.holders())
    except Exception as problem:  # noqa: BLE001 - whatever a vendor's tool does, no test may fail by it
        pulse.say(f"{source.name} cannot report which processes hold memory: {problem!r}")
        return None


def _open(
    deployment: Deployment, hardware: Hardware | None, env: Mapping[str, str], *, contained: bool
) -> tuple[Source | None, str]:
    """Open the source of readings for *hardware*, or return the reason why it cannot be opened; neither for a CPU."""
    if hardware is None or hardware.kind == "cpu":
        return None, ""
    make = next(make for make in DEVICES if hardware.kind.startswith(make.begins))
    module, _, name = make.source.partition(":")
    try:
        kind = getattr(import_module(module), name)
        source: Source = kind(visible(deployment, hardware.kind, env, contained=contained), hardware.count)
    except Exception as problem:  # noqa: BLE001 - no library, no driver, no device: all mean that nothing can be seen
        return (
            None,
            f"{hardware} cannot be monitored or checked for memory in use: {problem!r}; {make.needs}",
        )
    return source, ""


def visible(deployment: Deployment, kind: str, env: Mapping[str, str], *, contained: bool) -> tuple[str, ...]:
    """The devices of *kind* that *env* selects for *deployment*, as indices or UUIDs; empty: the first ones."""
    names = [name.rpartition("=")[2] for name in deployment.docker.gpus] if contained else leases.named(kind, env)[1]
    return tuple(name for name in names if name not in ("", "all"))
