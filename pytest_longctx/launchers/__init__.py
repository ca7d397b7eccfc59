"""
Launchers: how a server is reached. What is under test and how it is reached stay apart.

To add one, write a class with `up`, in one file beside this one, and return it from the hook
``pytest_longctx_make_launcher``.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_longctx.backends import Backend
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment
from pytest_longctx.progress import ProgressCallback, no_progress


def unattended(pid: int) -> None:
    """Nobody looks at the server's processes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to bring up, and what a launcher needs beside it."""

    backend: Backend
    deployment: Deployment
    model: str | None
    """The model as the engine is to be told it: a folder, or a name it resolves; None where the launcher starts nothing."""
    logs: Path
    """The folder for server logs."""
    python: Path | None = None
    """The interpreter that has the engine."""
    watch: ProgressCallback = no_progress
    started: Callable[[int], None] = unattended
    """Called with the id of the process below which the server's own are, where they are on this machine."""
    longest_prompt: int | None = None
    """In tokens, of all that this run is to send here; None: not known."""
    place: str = ""
    """Which boot of how many it is, as ``2 of 19: ``; empty where that is not known."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """The environment that keeps it to devices of its own; empty where it may take what it finds."""

    def server_at(self, url: str, launcher: str, **more: Any) -> Server:
        """The server this launch hopes for at *url*, before anything is known of it."""
        return Server(url, self.deployment.model.name, self.backend, self.deployment, launcher, **more)


class Launcher(Protocol):
    """Something that can make a deployment answer at a URL, and then make it stop."""

    name: str
    boots: bool
    """Whether it starts servers; one that only attaches may be shared by xdist workers."""
    needs_engine: bool
    """Whether what it starts is an engine installed on this machine."""
    here: bool
    """Whether what it starts runs on this machine, and on its devices."""

    def up(self, launch: Launch) -> AbstractContextManager[Server]:
        """Bring it up, and take it down again at exit. Raises `LaunchError` and `BootError`."""
