"""Start a command on this machine under a supervisor, and end all its processes."""

import fnmatch
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from pytest_longctx.backends import Recipe
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.diagnosis.log_evidence import ProcessEnd
from pytest_longctx.diagnosis.oom_killer import MemoryKills, MemoryWatch
from pytest_longctx.diagnosis.parsing.lines import LogTail
from pytest_longctx.errors import LaunchError
from pytest_longctx.processes import _supervisor, locks
from pytest_longctx.processes.orphans import VARIABLE, Mark, end_orphans
from pytest_longctx.processes.progress import Progress, ProgressCallback, no_progress, wait_until
from pytest_longctx.redaction import mask_file, masked, private, remember, secret_values

_POLL_S = 0.1
_NOTES_BYTES = 64 * 1024


class Candidate(Protocol):
    """A server that has been started and is not yet ready."""

    started_s: float
    log: Path | None
    again: str
    """The command that repeats the boot, with secrets masked."""
    secrets: tuple[str, ...]
    ours: bool
    """Whether this run started the server. Only then is a failed boot evidence about it."""

    def exit_code(self) -> int | None:
        """Return the exit code of a started server; ``None`` while it runs."""

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that the started server has logged since the last call."""

    def oom_killed(self) -> bool | None:
        """Return whether the container's state reports an out-of-memory kill; ``None`` without a container."""
        return None

    def memory_kills(self) -> MemoryKills | None:
        """Return the kernel's records of processes killed for memory since the start; ``None`` if they cannot be read."""
        return None

    def ends(self) -> tuple[ProcessEnd, ...]:
        """Return the processes of the server that signals have ended, as far as they can be observed."""
        return ()

    def halted(self) -> tuple[str, ...]:
        """Return a line for each process of the server that a signal has stopped, as far as these can be observed."""
        return ()

    def ended(self, wait_s: float) -> Evidence | None:
        """Return how the server ended; None if it still runs after *wait_s* seconds."""
        exit_code = wait_until(self.exit_code, wait_s, _POLL_S, done=lambda code: code is not None)
        return None if exit_code is None else self.evidence(exit_code)

    def evidence(self, exit_code: int | None) -> Evidence:
        """Return all evidence about how the server ended, or about a server that still runs."""
        kills = self.memory_kills()
        return Evidence(
            exit_code=exit_code,
            oom_killed=self.oom_killed(),
            memory_kills=None if kills is None else kills.lines,
            killed_gib=None if kills is None else kills.killed_gib,
            process_ends=self.ends(),
        )


PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "XDG_*", "SSL_CERT_*"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_*", "NVIDIA_*", "NCCL_*", "NVSHMEM_*", "TORCH_*", "TRITON_*", "OMP_*"),
    *("ONEDNN_*", "DNNL_*", "ATEN_*", "MKL_*", "KMP_*", "GOMP_*"),
    *("ROCM_*", "HIP_*", "ROCR_*", "HSA_*", "NEURON_*", "HF_HOME", "HF_HUB_*", "VLLM_*", "SGLANG_*", "FLASHINFER_*"),
)
"""
Environment variables that a server inherits. All others are dropped deliberately: with ``CI`` set, SGLang accepts
contexts that it would otherwise refuse, and an unneeded secret cannot leak.
"""


GRACE_S = 15.0
"""Time between SIGTERM and SIGKILL when a server is stopped."""
_STOP_S = 2 * GRACE_S
"""Time for a supervisor to end everything, before it is killed itself."""
_KILLED_S = 5.0


def environment(recipe: Recipe, inherited: Mapping[str, str]) -> dict[str, str]:
    """
    Return the whole environment of the server: inherited variables (`PASSED` and the recipe's), and variables that the
    recipe sets.
    """
    passed = {
        name: value
        for name, value in inherited.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in (*PASSED, *recipe.pass_env))
    }
    return {**passed, "PYTHONUNBUFFERED": "1", **recipe.env}


class Process(Candidate):
    """A server process with its supervisor."""

    ours = True

    def __init__(self, recipe: Recipe, env: Mapping[str, str], log: Path) -> None:
        self.secrets = (*recipe.secrets, *secret_values(env, recipe.argv))
        remember(self.secrets)
        self.started_s = time.monotonic()
        self.log = log
        set_here = " ".join(f"{name}={shlex.quote(value)}" for name, value in recipe.env.items())
        self.again = masked(f"{set_here} {shlex.join(recipe.argv)}".strip(), self.secrets)
        self._name = recipe.name
        end_orphans()
        self._mark = Mark()
        end, self._hold = os.pipe()
        self._notes, notes = os.pipe()
        for descriptor in (self._notes, notes):  # neither end may hold up the other
            os.set_blocking(descriptor, False)
        self._ends: tuple[ProcessEnd, ...] = ()
        given = (end, notes, self._mark.kept())
        command = [sys.executable, "-I", _supervisor.__file__, *map(str, given), str(GRACE_S), *recipe.argv]
        private(log)
        with log.open("wb") as out:
            try:
                self._supervisor = subprocess.Popen(
                    command,
                    env={**env, VARIABLE: self._mark.text},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=given,
                )
            finally:
                for descriptor in given:
                    os.close(descriptor)
        self.pid = self._supervisor.pid
        self._watch = MemoryWatch()
        self._lines = LogTail(log)

    def exit_code(self) -> int | None:
        """
        Return the exit code of the engine, 128 + N for signal N, also if its supervisor was killed; ``None`` while it
        runs.
        """
        code = self._supervisor.poll()
        return code if code is None or code >= 0 else 128 - code

    def new_lines(self) -> Iterator[str]:
        """
        Yield the complete lines that the process has logged since the last call, and after its end also an incomplete
        last line.
        """
        return self._lines.more(ended=self.exit_code() is not None)

    def memory_kills(self) -> MemoryKills | None:
        """
        Return the kernel's records of processes killed for memory since the start of this server; None if they cannot
        be read.
        """
        return self._watch.kills([each.pid for each in self.ends() if each.number == signal.SIGKILL])

    def ends(self) -> tuple[ProcessEnd, ...]:
        """Return the processes of the server that signals have ended, as its supervisor reports them."""
        while self._notes >= 0:
            try:
                text = os.read(self._notes, _NOTES_BYTES)
            except OSError:  # no more for now
                break
            if not text:
                break
            for line in text.decode("utf-8", "replace").splitlines():
                pid, number, name = (*line.split(" ", 2), "", "")[:3]
                if pid.isdecimal() and number.isdecimal():
                    self._ends += (ProcessEnd(int(pid), name, int(number)),)
        return self._ends

    def halted(self) -> tuple[str, ...]:
        """Return a line for each process of the server that SIGSTOP or a debugger has stopped."""
        seen = map(locks.look, (self.pid, *_supervisor.descendants(self.pid)))
        return tuple(what for what, halted in seen if halted)

    def stop(self, watch: ProgressCallback = no_progress) -> None:
        """
        Close the supervisor's pipe and wait until no process of the server is left.

        Raises `LaunchError` that names the processes that cannot be ended, such as one that waits for a broken device.
        """
        if self._hold >= 0:
            os.close(self._hold)
            self._hold = -1
        self._await_end(watch)
        if self._notes >= 0:
            self.ends()
            os.close(self._notes)
            self._notes = -1
        left = self._mark.release()
        self._lines.close()
        mask_file(self.log, self.secrets)
        if left:
            raise LaunchError(
                f"{self._name}: these processes of the server could not be ended: {', '.join(map(locks.described, left))}\n"
                "  try      the kernel log (dmesg); a process that waits for a device cannot end before the device responds"
            )

    def _await_end(self, watch: ProgressCallback) -> None:
        """Wait until the supervisor has ended. After `_STOP_S`, kill it and the engine."""
        began_s = time.monotonic()
        if self._supervisor.poll() is None:
            os.kill(self.pid, signal.SIGCONT)  # it may be stopped
        while self._supervisor.poll() is None:
            elapsed_s = time.monotonic() - began_s
            if elapsed_s > _STOP_S:
                self._supervisor.kill()
            if elapsed_s > _STOP_S + _KILLED_S:
                return
            if elapsed_s > locks.SAID_AFTER_S:
                watch(Progress(f"stop {self._name}", "waiting for its processes to end", elapsed_s, _STOP_S))
            with suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(_POLL_S)
