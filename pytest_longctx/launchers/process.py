"""Serve from a process on this machine: on loopback, in its own session, dead when the test run is dead."""

import fnmatch
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pytest_longctx import _supervisor
from pytest_longctx.backends import Recipe
from pytest_longctx.client.server import Server
from pytest_longctx.diagnosis.log_reader import GrowingLog
from pytest_longctx.diagnosis.oom_killer import MemoryKills, MemoryWatch
from pytest_longctx.errors import LaunchError, UsageError
from pytest_longctx.launchers import Launch
from pytest_longctx.launchers.readiness import Candidate, await_ready
from pytest_longctx.redaction import masked, secret_values

PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "XDG_*", "SSL_CERT_*"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_*", "NVIDIA_*", "NCCL_*", "NVSHMEM_*", "TORCH_*", "TRITON_*", "OMP_*"),
    *("ONEDNN_*", "DNNL_*", "ATEN_*", "MKL_*", "KMP_*", "GOMP_*"),
    *("ROCM_*", "HIP_*", "ROCR_*", "HSA_*", "NEURON_*", "HF_HOME", "HF_HUB_*", "VLLM_*", "SGLANG_*", "FLASHINFER_*"),
)
"""
What a server inherits. Everything else is left behind on purpose: with ``CI`` set, SGLang accepts contexts it would
otherwise refuse, and a secret that is not needed cannot leak.
"""

GRACE_S = 15.0
"""How long a server may take to end after SIGTERM before it is killed."""


class ProcessLauncher:
    """Runs the engine's own command line under a leash."""

    name = "process"
    boots = True
    needs_engine = True
    here = True

    def __init__(self, what: str = "") -> None:
        if what:
            raise UsageError(f"--longctx-launcher=process takes nothing after it; found {what!r}")

    @contextmanager
    def up(self, launch: Launch) -> Iterator[Server]:
        """Start it, wait until it answers, yield it, and leave no process of it behind."""
        if launch.model is None or launch.python is None:
            raise LaunchError(f"{launch.deployment.name}: the process launcher needs a model and an interpreter")
        port = free_port(launch.deployment.flags.get("port"))
        recipe = launch.backend.recipe(launch.deployment, launch.model, port, str(launch.python))
        recipe = replace(recipe, env={**recipe.env, **launch.shown})
        env = environment(recipe, os.environ)
        # Several runs may share a folder, and the workers of one run do; a log is one server's.
        log = launch.logs / f"{recipe.name}-{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        process = Process(recipe, env, log)
        launch.started(process.pid)
        hoped = launch.server_at(f"http://127.0.0.1:{port}", self.name, ended=process.ended, hidden=process.secrets)
        try:
            server = await_ready(process, launch, hoped, boot_s=recipe.boot_s)
            yield replace(server, words={**server.words, **launch.shown})
        finally:
            process.stop()


def environment(recipe: Recipe, inherited: Mapping[str, str]) -> dict[str, str]:
    """The server's whole environment: what `PASSED` and the recipe let through, and what the recipe sets."""
    passed = {
        name: value
        for name, value in inherited.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in (*PASSED, *recipe.pass_env))
    }
    return {**passed, "PYTHONUNBUFFERED": "1", **recipe.env}


def free_port(wanted: object) -> int:
    """A port nobody listens on, or *wanted* itself if that is free. Raises `LaunchError`."""
    with socket.socket() as probe:
        # As servers do it: a port that only lingers from an earlier connection counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if wanted is not None and not (isinstance(wanted, int) and 0 < wanted < 65536):
            raise LaunchError(f"[flags] port: {wanted!r} is no port; leave it out, and a free one is chosen")
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as problem:
            raise LaunchError(
                f"port {wanted} on 127.0.0.1 is taken ({problem.strerror})\n"
                "  try      another port in the deployment's [flags], or leave it out: a free one is chosen"
            ) from None
        return int(probe.getsockname()[1])


class Process(Candidate):
    """A server process on its leash."""

    ours = True

    def __init__(self, recipe: Recipe, env: Mapping[str, str], log: Path) -> None:
        self.secrets = (*recipe.secrets, *secret_values(env, recipe.argv))
        self.started_s = time.monotonic()
        self.log = log
        set_here = " ".join(f"{name}={shlex.quote(value)}" for name, value in recipe.env.items())
        self.again = masked(f"{set_here} {shlex.join(recipe.argv)}".strip(), self.secrets)
        end, self._hold = os.pipe()
        command = [sys.executable, "-I", _supervisor.__file__, str(end), str(GRACE_S), *recipe.argv]
        with log.open("wb") as out:
            try:
                self._leash = subprocess.Popen(
                    command,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(end,),
                )
            finally:
                os.close(end)
        self.pid = self._leash.pid
        self._watch = MemoryWatch()
        self._lines = GrowingLog(log)

    def exit_code(self) -> int | None:
        """The engine's exit code, 128 + N for signal N; None while it runs."""
        return self._leash.poll()

    def new_lines(self) -> Iterator[str]:
        """Whole lines that the log has gained since the last call; the rest of it once the process has ended."""
        return self._lines.more(ended=self.exit_code() is not None)

    def memory_kills(self) -> MemoryKills | None:
        """What the kernel says of processes it ended since this one was started."""
        return self._watch.kills()

    def stop(self) -> None:
        """Let go of the leash and wait until nothing of the server is left."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1
        self._leash.wait()
        self._lines.close()
