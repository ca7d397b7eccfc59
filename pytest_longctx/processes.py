"""Start a command on this machine under a supervisor, and be sure that nothing of it is left."""

import fnmatch
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from pytest_longctx import _supervisor
from pytest_longctx.backends import Recipe
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.lines import LogTail
from pytest_longctx.diagnosis.oom_killer import MemoryKills, MemoryWatch
from pytest_longctx.errors import LaunchError
from pytest_longctx.redaction import masked, secret_values

_POLL_S = 0.1


class Candidate(Protocol):
    """A server that may come up."""

    started_s: float
    log: Path | None
    again: str
    """The command that repeats the boot, secrets masked."""
    secrets: tuple[str, ...]
    ours: bool
    """Whether it was started for this run: only then is its failure to come up evidence about it."""

    def exit_code(self) -> int | None:
        """None while it runs."""

    def new_lines(self) -> Iterator[str]:
        """What its log has gained since the last call."""

    def oom_killed(self) -> bool | None:
        """What a container's state says of it; None where there is no container."""
        return None

    def memory_kills(self) -> MemoryKills | None:
        """What the kernel says of processes it ended since the start; None where that cannot be read."""
        return None

    def ended(self, wait_s: float) -> Evidence | None:
        """How it ended, if it does so within *wait_s*."""
        end = time.monotonic() + wait_s
        while (exit_code := self.exit_code()) is None:
            if time.monotonic() >= end:
                return None
            time.sleep(_POLL_S)
        return self.evidence(exit_code)

    def evidence(self, exit_code: int | None) -> Evidence:
        """All that can be asked about how it ended, or about one that runs on."""
        kills = self.memory_kills()
        return Evidence(
            exit_code=exit_code,
            oom_killed=self.oom_killed(),
            memory_kills=None if kills is None else kills.lines,
            killed_gib=None if kills is None else kills.killed_gib,
        )


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
    """A server process under its supervisor."""

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
                self._supervisor = subprocess.Popen(
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
        self.pid = self._supervisor.pid
        self._watch = MemoryWatch()
        self._lines = LogTail(log)

    def exit_code(self) -> int | None:
        """The engine's exit code, 128 + N for signal N; None while it runs."""
        return self._supervisor.poll()

    def new_lines(self) -> Iterator[str]:
        """Whole lines that the log has gained since the last call; the rest of it once the process has ended."""
        return self._lines.more(ended=self.exit_code() is not None)

    def memory_kills(self) -> MemoryKills | None:
        """What the kernel says of processes it ended since this one was started."""
        return self._watch.kills()

    def stop(self) -> None:
        """Close the supervisor's pipe and wait until nothing of the server is left."""
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1
        self._supervisor.wait()
        self._lines.close()
