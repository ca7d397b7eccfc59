"""
Launchers start a server, or attach to a running one. A deployment defines the server; a launcher starts or reaches it.

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
    """Do nothing: the default for a launch whose server processes are not monitored."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The deployment to start, and the other inputs of a launcher."""

    backend: Backend
    deployment: Deployment
    model: str | None
    """The model for the engine: a folder, or a name that the engine resolves; None if the launcher starts nothing."""
    logs: Path
    """The folder for server logs."""
    python: Path | None = None
    """The Python interpreter in which the engine is installed."""
    watch: ProgressCallback = no_progress
    started: Callable[[int], None] = unattended
    """Function that is called with the id of the server's topmost process, if the process runs on this machine."""
    longest_prompt: int | None = None
    """The longest prompt of this run for this server, in tokens; None if unknown."""
    place: str = ""
    """The number of this boot, as in ``2 of 19: ``; empty if unknown."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that select the leased devices of the server; empty if it may use all."""
    good_boots: "GoodBoots | None" = None
    """The stored logs of good boots; None without a store."""

    def server_at(self, url: str, launcher: "Launcher", **more: Any) -> "Server":
        """Return the server that *launcher* will start at *url*, before it is ready."""
        attached = not launcher.boots
        name = self.deployment.model.name
        from pytest_longctx.client.server import Server  # noqa: PLC0415 - lints and plans import this package, and no client

        return Server(url, name, self.backend, self.deployment, launcher.name, attached=attached, **more)


class Launcher(Protocol):
    """Base class of launchers: start or reach the server of a deployment, and stop what was started."""

    name: str
    """Name in results and messages."""
    boots: bool
    """
    Whether this launcher starts servers. Xdist workers may share a launcher that only attaches, whose machine is
    unknown.
    """
    needs_engine: bool
    """Whether this launcher runs an engine installed on this machine, with the interpreter `Launch.python`."""
    here: bool
    """Whether the servers run on this machine, whose devices are then checked before a boot and sampled after it."""
    contained: bool
    """
    Whether the servers run in containers. On this machine, ``[docker] gpus`` then selects their devices, not the
    environment.
    """
    leases_devices: bool
    """
    Whether the launcher sets `Launch.shown` in the environment of its servers, so that several can boot at once on
    different devices.
    """

    def up(self, launch: Launch) -> AbstractContextManager["Server"]:
        """Start the server or attach to it. At exit, stop what was started. Raises `LaunchError` and `BootError`."""
