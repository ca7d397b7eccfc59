"""A launcher of one file: ``pytest -p prefixed --longctx-launcher="prefixed:numactl --cpunodebind=0" ...``."""

import os
import shlex
from contextlib import contextmanager
from dataclasses import replace

from pytest_longctx.launchers.readiness import await_ready
from pytest_longctx.processes import Process, environment
from pytest_longctx.processes.ports import reserved_port


class Prefixed:
    """Runs the engine's own command line behind another command."""

    name = "prefixed"
    boots = True
    needs_engine = True
    here = True
    contained = False
    leases_devices = True

    def __init__(self, command=""):
        self.command = tuple(shlex.split(command))

    @contextmanager
    def up(self, launch):
        with reserved_port(launch.deployment.flags.get("port")) as port, self._running(launch, port) as server:
            yield server

    @contextmanager
    def _running(self, launch, port):
        one = launch.deployment
        recipe = launch.backend.recipe(one, launch.model, port, str(launch.python))
        recipe = replace(recipe, argv=(*self.command, *recipe.argv), env={**recipe.env, **launch.shown})
        log = launch.logs / f"{one.name}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = Process(recipe, environment(recipe, os.environ), log)
        launch.started(process.pid)
        hoped = launch.server_at(f"http://127.0.0.1:{port}", self, ended=process.ended, hidden=process.secrets)
        try:
            server = await_ready(process, launch, hoped, boot_s=recipe.boot_s)
            yield replace(server, words={**server.words, **launch.shown})
        finally:
            process.stop()


def pytest_longctx_make_launcher(kind, what):
    return Prefixed(what) if kind == "prefixed" else None


def pytest_longctx_names(what):
    return ["prefixed"] if what == "launcher" else []
