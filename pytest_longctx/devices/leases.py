"""
Lease this host's devices, so that several deployments can run at once, each on its own devices.

A deployment leases its devices before it checks them for memory in use. It returns them after their memory is free.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.deployments.hardware import Hardware
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes import locks
from pytest_longctx.processes.progress import Progress, ProgressCallback

_VISIBLE: Mapping[str, tuple[str, ...]] = {"MI": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"), "trn": ()}
"""
Environment variables that limit a process to some devices, by the beginning of the kind; CUDA's variable for any other.

Neuron's variable counts cores, and only its runtime knows the cores per device. Such machines are leased as a whole.
"""
_POLL_S = 0.2


def variables(kind: str) -> tuple[str, ...]:
    """Return the environment variables that limit a process to some devices of *kind*; empty if no variable does."""
    return next((names for start, names in _VISIBLE.items() if kind.startswith(start)), ("CUDA_VISIBLE_DEVICES",))


def named(kind: str, env: Mapping[str, str]) -> tuple[str, list[str]]:
    """
    Return the variable of *env* that limits a server to some devices of *kind*, and the devices in it, by index or
    UUID.

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
    Lease *count* of the *there* devices of *kind*, and yield the environment that selects them. A user's device has one
    lease at a time.

    If *inherited* names devices, only those are used. The function waits for free devices and calls *waits* repeatedly.
    It takes all or none, so two runs cannot deadlock. The kernel releases the leases if the process dies. Raises
    `LaunchError` if there are too few devices.
    """
    name, visible = named(kind, inherited)
    devices = visible or [str(index) for index in range(there)]
    if count > len(devices):
        raise LaunchError(
            f"{count} {kind} are needed, but there are only {len(devices)} ({name}={inherited.get(name, 'not set')})\n"
            "  try      a deployment for fewer devices, or a longer list in that variable"
        )
    count = count if name else there
    with ExitStack() as held:
        while len(mine := _take(held, kind, devices, count)) < count:
            held.close()
            waits()
            time.sleep(_POLL_S)
        yield _shown(name, mine)


def _shown(name: str, mine: list[str]) -> dict[str, str]:
    # CUDA's default order is fastest first; NVML and other tools order devices by PCI bus.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if name.startswith("CUDA") else {}
    return {name: ",".join(mine), **order} if name else {}


def _take(held: ExitStack, kind: str, devices: list[str], count: int) -> list[str]:
    """Lease up to *count* free *devices* at once, under a lock of the whole folder, and return them."""
    mine: list[str] = []
    with locks.held("devices.gate", "the list of leased devices"):
        for device in devices:
            if len(mine) == count:
                break
            lock = locks.opened(_lease_of(kind, device))
            held.callback(os.close, lock)
            if locks.taken(lock):
                mine.append(device)
    return mine


def _lease_of(kind: str, device: str) -> str:
    return f"{kind}-{device.replace('/', '_')}.lease"


@dataclass(slots=True)
class _Waiting:
    """One wait for devices, which reports the processes that hold them."""

    deployment: Deployment
    wanted: Hardware
    watch: ProgressCallback
    began_s: float = field(default_factory=time.monotonic)
    running_s: float = field(default_factory=time.monotonic)
    """Time at which a process that holds devices was last seen running."""

    def look(self) -> None:
        """Report the wait. Raises `LaunchError` if every holder is stopped for `locks.STOPPED_S`."""
        now_s = time.monotonic()
        found = [locks.holder(name) for name in _held(self.wanted.kind)]
        if not found or not all(halted for _, halted in found):
            self.running_s = now_s
        who = ", ".join(dict.fromkeys(said for said, _ in found))
        if now_s - self.running_s > locks.STOPPED_S:
            raise LaunchError(
                f"{self.wanted}: in use by {who}, which is stopped\n  try      resume the process (kill -CONT PID), or end it"
            )
        named = f", in use by {who}" if who and now_s - self.began_s > locks.SAID_AFTER_S else ""
        most_s = self.deployment.timeouts.boot_s
        said = f"waiting for {self.wanted}{named}"
        self.watch(Progress(f"boot {self.deployment.name}", said, now_s - self.began_s, most_s))


def _held(kind: str) -> Iterator[int]:
    """Yield descriptors of the leases of *kind* that other processes hold, each open until the next."""
    for path in sorted(locks.folder().glob(f"{kind}-*.lease")):
        lock = locks.opened(path.name)
        try:
            if not locks.taken(lock):
                yield lock
        finally:
            os.close(lock)


@contextmanager
def own(deployment: Deployment, there: Hardware | None, watch: ProgressCallback) -> Iterator[Mapping[str, str]]:
    """
    Lease devices for *deployment*, and yield the environment that selects them; empty if it needs all of *there*, or
    none.

    Raises `LaunchError` if there are too few devices.
    """
    wanted = Hardware.parse(deployment.hardware) if deployment.hardware else None
    if wanted is None or there is None or wanted.kind != there.kind or wanted.kind == "cpu":
        yield {}
        return

    waiting = _Waiting(deployment, wanted, watch)
    with lease(wanted.kind, wanted.count, there.count, {**os.environ, **deployment.env}, waiting.look) as shown:
        yield shown if wanted.count < there.count else {}
