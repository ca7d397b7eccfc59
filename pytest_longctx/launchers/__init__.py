"""
Launchers start or find a server. A deployment defines the server under test, a launcher how to start or reach it.

To add one, write a class with every attribute of `Launcher` and with `up`, and return it from the hook
``pytest_longctx_make_launcher``. A run treats a launcher by these attributes only, never by its name.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_longctx.backends import Backend
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.processes.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from pytest_longctx.client.server import Server
    from pytest_longctx.diagnosis.good_boots import GoodBoots


def unattended(pid: int) -> None:
    """Default of a launch whose server's processes are not monitored: do nothing."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The deployment to start, and the inputs of a launcher."""

    backend: Backend
    deployment: Deployment
    model: str | None
    """The model for the engine: a folder, or a name that it resolves; None if the launcher starts nothing."""
    logs: Path
    """The folder for server logs."""
    python: Path | None = None
    """The Python interpreter in which the engine is installed."""
    watch: ProgressCallback = no_progress
    started: Callable[[int], None] = unattended
    """Called with the id of the server's topmost process, if that runs on this machine."""
    longest_prompt: int | None = None
    """The longest prompt of this run for this server, in tokens; None: not known."""
    place: str = ""
    """The number of this boot among all, as ``2 of 19: ``; empty if unknown."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that select its leased devices; empty if it may use all."""
    good_boots: "GoodBoots | None" = None
    """The stored logs of good boots; None: none are stored."""

    def server_at(self, url: str, launcher: "Launcher", **more: Any) -> "Server":
        """The launch's server that *launcher* will start at *url*, before it is ready."""
        attached = not launcher.boots
        name = self.deployment.model.name
        from pytest_longctx.client.server import Server  # noqa: PLC0415 - lints and plans import this package, and no client

        return Server(url, name, self.backend, self.deployment, launcher.name, attached=attached, **more)


class Launcher(Protocol):
    """Starts or reaches the server of a deployment, and stops what it started."""

    name: str
    """Name in results and messages."""
    boots: bool
    """Whether it starts servers. One that only attaches may be shared by xdist workers, and its machine is unknown."""
    needs_engine: bool
    """Whether it starts an engine that is installed on this machine, by the interpreter `Launch.python`."""
    here: bool
    """Whether its servers run on this machine: the memory of their devices is checked before a boot and sampled after it."""
    contained: bool
    """Whether its servers run in containers: on this machine, ``[docker] gpus`` names their devices, not the environment."""
    leases_devices: bool
    """Whether it puts `Launch.shown` into its servers' environment: several may then boot at once, each on its own devices."""

    def up(self, launch: Launch) -> AbstractContextManager["Server"]:
        """Start the server, or attach to it, and stop at exit what was started. Raises `LaunchError` and `BootError`."""
