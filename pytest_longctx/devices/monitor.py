"""At the bedside of one server: its devices are free when it comes, looked at while it is there, and free when it has gone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Final, NamedTuple

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.devices import Source, leases, memory_holders
from pytest_longctx.devices.sampler import Pulse, Tell


class Make(NamedTuple):
    """A make of accelerators: the kinds of hardware that begin like this, and who looks at them."""

    begins: str
    source: str
    needs: str


MAKES: Final = (
    Make("MI", "pytest_longctx.devices.amd:AmdSmi", "amd-smi or rocm-smi on the path"),
    Make("trn", "pytest_longctx.devices.neuron:NeuronMonitor", "neuron-monitor on the path"),
    Make("", "pytest_longctx.devices.nvidia:Nvml", "pip install 'pytest-longctx[nvidia]'"),
)
"""By name, so that a run imports only the one it uses; every kind that no other row begins is NVIDIA's."""


@contextmanager
def beside(
    deployment: Deployment,
    hardware: Hardware | None,
    env: Mapping[str, str],
    tell: Tell,
    *,
    contained: bool,
    allow_busy: bool,
) -> Iterator[Pulse]:
    """
    Watch over a server for as long as the context lasts; what is seen goes to *tell*.

    *hardware* is what it takes of this machine, where it is booted on this machine; *env* may name the devices. Raises
    `LaunchError` where somebody else holds memory of those, unless *allow_busy*; who still holds some after the server has gone
    is said. *contained*: the server is in a container.
    """
    source, trouble = _open(deployment, hardware, env, contained=contained)
    pulse = Pulse(deployment.name, tell, source)
    if trouble:
        pulse.say(trouble)
    try:
        before = _look(source, pulse)
        if before is not None and source is not None and not allow_busy:
            memory_holders.refuse(deployment.name, str(hardware), source.name, memory_holders.held(before))
        with pulse:
            yield pulse
        if before is not None and source is not None:
            for line in memory_holders.await_back(lambda: _look(source, pulse) or before, before):
                pulse.say(f"{deployment.name} has stopped, and its memory is not back: {line}")
    finally:
        if source is not None:
            source.close()


def _look(source: Source | None, pulse: Pulse) -> memory_holders.Look | None:
    """Whose memory it is; None, and said, where nobody can tell."""
    if source is None:
        return None
    try:
        return memory_holders.Look(source.devices(), source.holders())
    except Exception as problem:  # noqa: BLE001 - whatever a vendor's tool does, no test may fail by it
        pulse.say(f"{source.name} does not tell who holds memory: {problem!r}")
        return None


def _open(
    deployment: Deployment, hardware: Hardware | None, env: Mapping[str, str], *, contained: bool
) -> tuple[Source | None, str]:
    """Who looks at *hardware*, or why nobody can; neither where there is nothing to look at."""
    if hardware is None or hardware.kind == "cpu":
        return None, ""
    make = next(make for make in MAKES if hardware.kind.startswith(make.begins))
    module, _, name = make.source.partition(":")
    try:
        kind = getattr(import_module(module), name)
        source: Source = kind(visible(deployment, hardware.kind, env, contained=contained), hardware.count)
    except Exception as problem:  # noqa: BLE001 - no library, no driver, no device: all mean that nothing can be seen
        return (
            None,
            f"nothing is known of {hardware} beside its servers, nor who holds its memory: {problem!r}; {make.needs}",
        )
    return source, ""


def visible(deployment: Deployment, kind: str, env: Mapping[str, str], *, contained: bool) -> tuple[str, ...]:
    """The devices of *kind* that *env* names for *deployment*, as indices or UUIDs; empty: it takes the first ones."""
    names = [name.rpartition("=")[2] for name in deployment.docker.gpus] if contained else leases.named(kind, env)[1]
    return tuple(name for name in names if name not in ("", "all"))
