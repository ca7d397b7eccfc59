"""
Devices of this host by lease: several deployments at once, each with devices of its own.

The devices of this machine that a deployment may use: leased before anybody looks at them, and until they are free again.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import LaunchError
from pytest_longctx.progress import Progress, ProgressCallback

_VISIBLE: Mapping[str, tuple[str, ...]] = {"MI": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "trn": ()}
"""
What restricts a process to some devices, by the beginning of their kind; CUDA's variable for any other.

Neuron's counts cores, and how many a device has is for its runtime to say: no part of such a machine is leased.
"""
_POLL_S = 0.2


def variables(kind: str) -> tuple[str, ...]:
    """The environment variables by which a process sees only some devices of *kind*; empty where it cannot be kept to some."""
    return next((names for start, names in _VISIBLE.items() if kind.startswith(start)), ("CUDA_VISIBLE_DEVICES",))


def named(kind: str, env: Mapping[str, str]) -> tuple[str, list[str]]:
    """
    The variable that counts for *kind* in *env*, and the devices that it names there, by index or UUID.

    >>> named("H200", {"CUDA_VISIBLE_DEVICES": "4, 5"}), named("MI300X", {"ROCR_VISIBLE_DEVICES": "1"}), named("trn2", {})
    (('CUDA_VISIBLE_DEVICES', ['4', '5']), ('ROCR_VISIBLE_DEVICES', ['1']), ('', []))
    """
    names = variables(kind)
    name = next((name for name in names if env.get(name)), "".join(names[:1]))
    return name, [each.strip() for each in env.get(name, "").split(",") if each.strip()]


@contextmanager
def lease(
    kind: str, count: int, there: int, inherited: Mapping[str, str], waits: Callable[[], None] = lambda: None
) -> Iterator[Mapping[str, str]]:
    """
    The environment that shows *count* of the *there* devices of *kind* which nobody else of this user has leased.

    Only those that *inherited* names, if it does. Waits for them, calling *waits* now and then, and takes all or none, so that
    two who want more than half do not hold each other up. The kernel gives them back if the holder dies. Raises `LaunchError`
    where there are too few.
    """
    name, visible = named(kind, inherited)
    devices = visible or [str(index) for index in range(there)]
    if count > len(devices):
        raise LaunchError(
            f"{count} {kind} are needed, and {len(devices)} are there ({name}={inherited.get(name, 'not set')})"
        )
    count = count if name else there
    folder = Path(tempfile.gettempdir()) / f"pytest-longctx-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        while len(mine := _take(held, folder, kind, devices, count)) < count:
            held.close()
            waits()
            time.sleep(_POLL_S)
        yield _shown(name, mine)


def _shown(name: str, mine: list[str]) -> dict[str, str]:
    # CUDA counts the fastest device first, NVML and everybody who looks at a machine by their place on the bus.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if name.startswith("CUDA") else {}
    return {name: ",".join(mine), **order} if name else {}


def _take(held: ExitStack, folder: Path, kind: str, devices: list[str], count: int) -> list[str]:
    """Lock as many of *devices* as are free, at most *count*, while nobody else looks."""
    mine: list[str] = []
    with (folder / "devices.gate").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for device in devices:
            if len(mine) == count:
                break
            file = held.enter_context((folder / f"{kind}-{device.replace('/', '_')}.lease").open("w"))
            if _locked(file):
                mine.append(device)
    return mine


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def own(deployment: Deployment, there: Hardware | None, watch: ProgressCallback) -> Iterator[Mapping[str, str]]:
    """
    The environment in which *deployment* sees only devices of its own; empty where it needs all of *there*, or none.

    Raises `LaunchError` where there are too few.
    """
    wanted = Hardware.parse(deployment.hardware) if deployment.hardware else None
    if wanted is None or there is None or wanted.kind != there.kind or wanted.kind == "cpu":
        yield {}
        return

    began_s = time.monotonic()

    def waits() -> None:
        what, most_s = f"boot {deployment.name}", deployment.timeouts.boot_s
        watch(Progress(what, f"waiting for {wanted}", time.monotonic() - began_s, most_s))

    with lease(wanted.kind, wanted.count, there.count, {**os.environ, **deployment.env}, waits) as shown:
        yield shown if wanted.count < there.count else {}
