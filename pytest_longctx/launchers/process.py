"""Run the server as a process on this machine, on loopback and in a session of its own, and end it with the test run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pytest_longctx.client.server import Server
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.processes import Process, environment
from pytest_longctx.processes.ports import reserved_port


class ProcessLauncher:
    """Launcher that runs the engine's own command line under a supervisor."""

    name = "process"
    boots = True
    needs_engine = True
    here = True
    contained = False
    leases_devices = True

    def __init__(self, what: str = "") -> None:
        if what:
            raise UsageError(f"--longctx-launcher: launcher `process` takes no argument; found {what!r}")

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Start the server, wait until it is ready, yield it, and leave no process behind."""
        if launch.model is None or launch.python is None:
            raise LaunchError(f"{launch.deployment.name}: the process launcher needs a model and an interpreter")
        with reserved_port(launch.deployment.flags.get("port")) as port, self._running(launch, port) as server:
            yield server

    @contextmanager
    def _running(self, launch: Launch, port: int) -> Iterator[Server]:
        recipe = launch.backend.recipe(launch.deployment, str(launch.model), port, str(launch.python))
        recipe = replace(recipe, env={**recipe.env, **launch.shown})
        env = environment(recipe, os.environ)
        # Each server has a log of its own; several runs, and the workers of one, share a folder.
        log = launch.logs / f"{recipe.name}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = Process(recipe, env, log)
        launch.started(process.pid)
        hoped = launch.server_at(
            f"http://127.0.0.1:{port}", self, ended=process.ended, halted=process.halted, hidden=process.secrets
        )
        try:
            server = await_ready(process, launch, hoped, boot_s=recipe.boot_s)
            yield replace(server, words={**server.words, **launch.shown})
        finally:
            process.stop(launch.watch)
