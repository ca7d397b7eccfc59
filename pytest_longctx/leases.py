"""Devices of this host by lease: several deployments at once, each with devices of its own."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from pytest_longctx.errors import LaunchError

_VISIBLE = {"MI": "HIP_VISIBLE_DEVICES", "trn": "NEURON_RT_VISIBLE_CORES"}
"""What restricts a process to some devices, by the beginning of their kind; CUDA's variable for any other."""
_POLL_S = 0.2


def variable(kind: str) -> str:
    """The environment variable by which a process sees only some devices of *kind*."""
    return next((name for start, name in _VISIBLE.items() if kind.startswith(start)), "CUDA_VISIBLE_DEVICES")


@contextmanager
def lease(
    kind: str, count: int, there: int, inherited: Mapping[str, str], waits: Callable[[], None] = lambda: None
) -> Iterator[Mapping[str, str]]:
    """
    The environment that shows *count* of the *there* devices of *kind* which nobody else of this user has leased.

    Waits for them, calling *waits* now and then, and takes all or none, so that two who want more than half do not hold each
    other up. The kernel gives them back if the holder dies. Raises `LaunchError` where there are too few.
    """
    name = variable(kind)
    visible = [each.strip() for each in inherited.get(name, "").split(",") if each.strip()]
    devices = visible or [str(index) for index in range(there)]
    if count > len(devices):
        raise LaunchError(
            f"{count} {kind} are needed, and {len(devices)} are there ({name}={inherited.get(name, 'not set')})"
        )
    folder = Path(tempfile.gettempdir()) / f"pytest-longctx-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        while len(mine := _take(held, folder, kind, devices, count)) < count:
            held.close()
            waits()
            time.sleep(_POLL_S)
        yield {name: ",".join(mine)}


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
