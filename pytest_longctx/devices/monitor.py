"""
Monitor a server's devices: check that they are free before the boot, sample them while it runs, and await their
release.

Before a boot, no process may hold memory of the devices. After the stop, the server's processes may not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import Source, leases
from pytest_longctx.devices.memory_holders import Look, await_release, memory_holders, refuse
from pytest_longctx.devices.sampler import Sampler, Tell
from pytest_longctx.registry import DEVICES


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
    Monitor a server while the context lasts, yield the sampler, and pass each reading to *tell*.

    *hardware*: the part of this machine that the server uses, if it runs here. *env* may select the devices.
    *contained*: the server runs in a container. Raises `LaunchError` if another process holds memory of the devices,
    unless *allow_busy*. Memory that is not released after the server stops is reported.
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
    """Return the devices and their memory holders. If they cannot be read, record the reason and return None."""
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
    """
    Return the source of readings for *hardware*, or None and the reason why it cannot be opened. For a CPU, return
    neither.
    """
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
    """
    Return the devices of *kind* that *env* selects for *deployment*, as indices or UUIDs. Empty means the first
    devices.
    """
    names = [name.rpartition("=")[2] for name in deployment.docker.gpus] if contained else leases.named(kind, env)[1]
    return tuple(name for name in names if name not in ("", "all"))
