"""
Launchers: how to reach a server. A deployment says what is under test, a launcher how to start or find it.

To add one, write a class with every attribute of `Launcher` and with `up`, and return it from the hook
``pytest_longctx_make_launcher``. What a run does for a launcher follows from these attributes alone, never from its name.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_longctx.backends import Backend
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.diagnosis.good_boots import GoodBoots
from pytest_longctx.progress import ProgressCallback, no_progress


def unattended(pid: int) -> None:
    """Ignore the server's processes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The deployment to bring up, and what a launcher needs for it."""

    backend: Backend
    deployment: Deployment
    model: str | None
    """The model for the engine: a folder, or a name that it resolves; None where the launcher starts nothing."""
    logs: Path
    """The folder for server logs."""
    python: Path | None = None
    """The interpreter that has the engine."""
    watch: ProgressCallback = no_progress
    started: Callable[[int], None] = unattended
    """Called with the id of the server's topmost process, where that is on this machine."""
    longest_prompt: int | None = None
    """The longest prompt of this run for this server, in tokens; None: not known."""
    place: str = ""
    """This boot counted among all, as ``2 of 19: ``; empty where that is not known."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """The environment that shows it only its leased devices; empty where it may use all."""
    good_boots: GoodBoots | None = None
    """The kept logs of good boots; None: none are kept."""

    def server_at(self, url: str, launcher: "Launcher", **more: Any) -> Server:
        """The server that *launcher* is to bring up at *url*, before anything is known of it."""
        attached = not launcher.boots
        name = self.deployment.model.name
        return Server(url, name, self.backend, self.deployment, launcher.name, attached=attached, **more)


class Launcher(Protocol):
    """Makes a deployment answer at a URL, and stops it afterwards."""

    name: str
    """As results and messages name it."""
    boots: bool
    """Whether it starts servers. One that only attaches may be shared by xdist workers, and its machine is not known."""
    needs_engine: bool
    """Whether it starts an engine that is installed on this machine, by the interpreter `Launch.python`."""
    here: bool
    """Whether its servers run on this machine: the memory of their devices is checked before a boot and sampled after it."""
    contained: bool
    """Whether its servers run in containers: on this machine, ``[docker] gpus`` names their devices, not the environment."""
    leases_devices: bool
    """Whether it puts `Launch.shown` into its servers' environment: several may then boot at once, each on its own devices."""

    def up(self, launch: Launch) -> AbstractContextManager[Server]:
        """Start the server, or attach to it, and stop at exit what was started. Raises `LaunchError` and `BootError`."""
