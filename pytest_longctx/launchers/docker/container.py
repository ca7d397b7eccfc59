"""
A container to run, as arguments for the Docker SDK and as the equivalent ``docker run`` line.

A running container: its log, and how it ended.
"""

import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pytest_longctx.backends import Recipe
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.oom_killer import MemoryKills, MemoryWatch, kills_in_group_of
from pytest_longctx.diagnosis.parsing.lines import LogTail
from pytest_longctx.errors import LaunchError
from pytest_longctx.launchers.docker.log_stream import follow
from pytest_longctx.launchers.log_copy import LogCopy
from pytest_longctx.processes import Candidate
from pytest_longctx.redaction import mask_file, masked, private, remember, secret_values, shown
from pytest_longctx.units import GiB

CACHE_INSIDE = "/models/huggingface"
"""The model cache inside a container, for models given by name."""


class Access(NamedTuple):
    """The options that give a container access to accelerators of one make."""

    kinds: tuple[str, ...]
    devices: tuple[str, ...] = ()
    """Patterns of device files on the host."""
    groups: tuple[str, ...] = ()
    ipc: str | None = None
    security: tuple[str, ...] = ()


ACCESS = (
    Access(("MI300X", "MI325X", "MI355X"), ("/dev/kfd", "/dev/dri"), ("video",), "host", ("seccomp=unconfined",)),
    Access(("trn1", "trn2"), ("/dev/neuron*",)),
    Access(("cpu",)),
)
"""Access by kind of hardware. Any other kind is NVIDIA's and is requested as a device."""


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """The options of one container to run."""

    name: str
    image: str
    command: tuple[str, ...]
    """The whole command, which replaces the image's entrypoint."""
    env: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    mounts: tuple[str, ...]
    port: int | None
    """Port published on loopback under the same number; None if the container uses the host's network."""
    network: str
    shm_gib: float
    gpus: int | tuple[str, ...] = 0
    """The number of NVIDIA GPUs, or their names."""
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    ipc: str | None = None
    security: tuple[str, ...] = ()
    memory_gib: float | None = None
    ulimits: Mapping[str, int] = field(default_factory=dict)

    @property
    def wants_cdi(self) -> bool:
        """Whether the GPUs have CDI names, ``vendor.com/class=device``."""
        return not isinstance(self.gpus, int) and any("=" in name for name in self.gpus)

    def line(self) -> str:
        """Return the ``docker run`` line of this container. The line contains secrets, which the caller must mask."""
        words = ["docker", "run", "--rm", "--init", *(word for option in self._options() for word in option)]
        return shlex.join([*words, "--entrypoint", self.command[0], self.image, *self.command[1:]])

    def _options(self) -> Iterator[tuple[str, str]]:
        if self.port is not None:
            yield "--publish", f"127.0.0.1:{self.port}:{self.port}"
        yield "--network", self.network
        yield from (("--env", f"{name}={value}") for name, value in self.env.items())
        yield from (("--volume", mount) for mount in self.mounts)
        if self.wants_cdi:
            yield from (("--device", name) for name in self.gpus) if not isinstance(self.gpus, int) else ()
        elif self.gpus:
            yield "--gpus", str(self.gpus) if isinstance(self.gpus, int) else f'"device={",".join(self.gpus)}"'
        yield from (("--device", device) for device in self.devices)
        yield from (("--group-add", group) for group in self.groups)
        yield from (("--security-opt", option) for option in self.security)
        yield ("--shm-size", f"{self.shm_gib:g}g") if self.ipc is None else ("--ipc", self.ipc)
        if self.memory_gib is not None:
            yield "--memory", f"{self.memory_gib:g}g"
            yield "--memory-swap", f"{self.memory_gib:g}g"
        yield from (("--ulimit", f"{name}={most}") for name, most in self.ulimits.items())

    def keywords(self, types: Any) -> dict[str, Any]:
        """Return the arguments of this container for ``containers.create`` of the Docker SDK. *types* is ``docker.types``."""
        memory = None if self.memory_gib is None else int(self.memory_gib * GiB)
        return {
            "image": self.image,
            "name": self.name,
            "entrypoint": [self.command[0]],
            "command": list(self.command[1:]),
            "init": True,  # otherwise the engine is process 1, which a signal ends only if it has a handler
            "environment": dict(self.env),
            "labels": dict(self.labels),
            "volumes": list(self.mounts),
            "ports": {} if self.port is None else {f"{self.port}/tcp": ("127.0.0.1", self.port)},
            "network_mode": self.network,
            "device_requests": self._requests(types),
            "devices": [f"{device}:{device}:rwm" for device in self.devices],
            "group_add": list(self.groups),
            "security_opt": list(self.security),
            "ipc_mode": self.ipc,
            "shm_size": int(self.shm_gib * GiB) if self.ipc is None else None,
            "mem_limit": memory,
            "memswap_limit": memory,
            "ulimits": [types.Ulimit(name=name, soft=most, hard=most) for name, most in self.ulimits.items()],
        }

    def _requests(self, types: Any) -> list[Any]:
        if not self.gpus:
            return []
        if isinstance(self.gpus, int):
            return [types.DeviceRequest(count=self.gpus, capabilities=[["gpu"]])]
        if self.wants_cdi:
            return [types.DeviceRequest(driver="cdi", device_ids=list(self.gpus))]
        return [types.DeviceRequest(device_ids=list(self.gpus), capabilities=[["gpu"]])]


def plan(
    recipe: Recipe,
    one: Deployment,
    model: str,
    labels: Mapping[str, str],
    inherited: Mapping[str, str],
    *,
    on_this_host: bool = True,
) -> ContainerRun:
    """
    Return the container for *recipe*, with access only to the hardware of *one*.

    ``pass_env`` and the folder of the model cache come from the environment *inherited*. Raises `LaunchError`; with
    *on_this_host* also for a missing device.
    """
    if one.image is None:
        raise LaunchError(f'{one.name} names no container image\n  try      image = "NAME:TAG" in the deployment')
    made, kind = one.docker, one.needs
    access = next((row for row in ACCESS if kind.kind in row.kinds), None)
    needed = access.devices if access else ()
    passed = {name: inherited[name] for name in recipe.pass_env if name in inherited}
    mounts, models = _model(one, model, {**inherited, **recipe.env})
    return ContainerRun(
        name=f"longctx-{recipe.name}-{next(iter(labels.values()))[:8]}",
        image=one.image,
        command=(*made.entrypoint, *recipe.argv),
        env={"PYTHONUNBUFFERED": "1", **models, **passed, **recipe.env},
        labels=labels,
        mounts=(*mounts, *(f"{Path(host).expanduser()}:{inside}" for host, _, inside in map(_cut, made.mounts))),
        port=None if made.network == "host" else recipe.port,
        network=made.network,
        shm_gib=made.shm_gib,
        gpus=made.gpus or (kind.count if access is None else 0),
        devices=(*(_present(needed, one) if on_this_host else needed), *made.devices),
        groups=access.groups if access else (),
        ipc=access.ipc if access else None,
        security=access.security if access else (),
        memory_gib=made.memory_gib,
        ulimits=made.ulimits,
    )


def _cut(mount: str) -> tuple[str, str, str]:
    return mount.partition(":")


def _present(patterns: tuple[str, ...], one: Deployment) -> tuple[str, ...]:
    """Return the device files on this host that match *patterns*. Raises `LaunchError` for a pattern that matches none."""
    found: list[str] = []
    for pattern in patterns:
        here = sorted(str(path) for path in Path("/dev").glob(pattern.removeprefix("/dev/")))
        if not here:
            raise LaunchError(
                f"{one.name} needs {one.hardware}, and this host has no {pattern}\n"
                "  try      the vendor's driver on the host, or a deployment for other hardware"
            )
        found += here
    return tuple(found)


def _model(one: Deployment, model: str, env: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the mount of *model* for the container, and the environment variables that name the mounted path."""
    folder = Path(model)
    if folder.is_absolute():
        # The files of a snapshot are links into the repository's own folder in the cache.
        whole = folder.parents[1] if folder.parent.name == "snapshots" else folder
        return (f"{whole}:{whole}:ro",), {}
    if one.model.id is None:
        return (), {}
    cache = Path(env.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    # Engines write locks and refs into the cache even for a complete model, unless told to stay offline.
    way = ":ro" if env.get("HF_HUB_OFFLINE") == "1" else ""
    return (f"{cache}:{CACHE_INSIDE}{way}",), {"HF_HOME": CACHE_INSIDE}


_SETTLE_S = 10.0
"""Most seconds until the engine records a container's exit after its log or a connection ended."""
_OUTLAST_S = 3.0
"""
Seconds for which an engine must still answer after a signal ended a container. A stopping engine ends its containers
first.
"""


class Container(Candidate):
    """A running container, whose log is streamed into a file."""

    ours = True

    def __init__(self, container: Any, run: ContainerRun, log: Path, hidden: tuple[str, ...], socket: str) -> None:
        self.secrets = (*hidden, *secret_values(run.env, run.command))
        remember(self.secrets)
        self.started_s = time.monotonic()
        self.log = log
        self.again = masked(run.line(), self.secrets)
        self._oom_killed: bool | None = None
        self._container, self._socket = container, socket
        self._exit_code: int | None = None
        self.lost = ""
        """The reason why the container can no longer be observed, if the Docker engine itself has stopped; else empty."""
        self._watch = MemoryWatch()
        self._is_here = False
        """Whether the container's processes run in this kernel, as far as this process can see."""
        self._over = threading.Event()
        private(log)
        self._lines = LogTail(log)
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        """Copy the container's log until the log ends, then read how the container ended."""
        try:
            with LogCopy(self.log) as out:
                for piece in follow(self._socket, self._container.id):
                    out.write(piece)
            state = self._state()
            self._oom_killed, self._exit_code = bool(state.get("OOMKilled")), int(state["ExitCode"])
            if self._exit_code > 128 and not self._oom_killed:
                self._outlast()
        except Exception as problem:  # noqa: BLE001 - the SDK lets errors of several HTTP libraries through
            self.lost = str(problem) or type(problem).__name__
        finally:
            self._over.set()

    def _state(self) -> dict[str, Any]:
        end = time.monotonic() + _SETTLE_S
        while True:
            self._container.reload()
            state: dict[str, Any] = self._container.attrs["State"]
            if not state["Running"]:
                return state
            if time.monotonic() > end:
                raise LaunchError("the log stream ended while the container was still running")
            time.sleep(0.05)

    def _outlast(self) -> None:
        """Wait after a signal, to ensure that the signal did not come from a stopping Docker engine."""
        end = time.monotonic() + _OUTLAST_S
        while time.monotonic() < end:
            self._container.client.ping()
            time.sleep(0.2)

    def pid(self) -> int | None:
        """
        Return the id of the container's first process; None if the id is not visible, for example from within another
        container.
        """
        try:
            self._container.reload()
            pid = int(self._container.attrs["State"]["Pid"])
            ours = self._container.id in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
        except Exception:  # noqa: BLE001 - the SDK lets errors of several HTTP libraries through; it may have ended already
            return None
        self._is_here = self._is_here or ours
        return pid if ours else None

    def memory_kills(self) -> MemoryKills | None:
        """
        Return the kernel's records of processes killed for memory since the start; None if the container may run on
        another kernel.
        """
        return self._watch.kills() if self._is_here else None

    def exit_code(self) -> int | None:
        """
        Return the exit code in the container's state; None while the container runs. Raises `LaunchError` if the Docker
        engine has stopped.
        """
        if not self._over.is_set():
            return None
        if self.lost:
            raise LaunchError(
                f"the connection to the Docker engine was lost while its container ran: {shown(self.lost, self.secrets)}\n"
                f"  log      {self.log}\n  try      docker info, and the engine's own log"
            )
        return self._exit_code

    def oom_killed(self) -> bool | None:
        """
        Return whether the memory limit ended the container or one of its processes; None while the container runs
        undamaged.
        """
        if self._oom_killed is not None:
            return self._oom_killed
        # A killed worker may show in the engine's log, without a cause, seconds before the container's state has it.
        pid = self.pid()
        return bool(pid and kills_in_group_of(pid)) or None

    def new_lines(self) -> Iterator[str]:
        """
        Yield the complete lines of the container's log since the last call, and after its exit also an incomplete last
        line.
        """
        return self._lines.more(ended=self._over.is_set())

    def ended(self, wait_s: float) -> Evidence | None:
        """
        Return how the container ended; None if it still runs after *wait_s* seconds. Raises `LaunchError` if the Docker
        engine has stopped.
        """
        self._over.wait(wait_s)
        return super().ended(0.0)

    def close(self) -> None:
        """Wait for the rest of the log after the removal of the container."""
        self._over.wait(_SETTLE_S)
        self._lines.close()
        mask_file(self.log, self.secrets)
