"""
Find and end the processes that a killed run has left.

A supervisor ends all descendants of its engine. If it is itself killed with SIGKILL, workers in their own sessions
survive. Each of them has the mark of its engine in its environment, unless it has overwritten that with a title. The
lock of the engine lists these, with their start. The lock shows whether the run that started the engine is still alive.
The kernel releases it with that run, so the next run can end the remaining processes.
"""

import os
import secrets
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_longctx.processes import _supervisor, locks

VARIABLE: Final = "PYTEST_LONGCTX_ENGINE"
"""Environment variable with the mark."""
_SUFFIX: Final = ".engine"
_GONE_S: Final = 5.0


class Mark:
    """The mark in the environment of one engine's processes, valid until `release`."""

    def __init__(self) -> None:
        self.text = secrets.token_hex(16)
        self._path = locks.folder() / f"{self.text}{_SUFFIX}"
        self._lock = locks.opened(self._path.name)
        while not locks.taken(self._lock):  # another run looks at it, for a moment
            time.sleep(0.01)

    def kept(self) -> int:
        """Open the list of the engine's processes, for its supervisor; return the descriptor."""
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def marked(self) -> set[int]:
        """Return the ids of the engine's processes that still run."""
        return _marked(self.text)

    def release(self) -> list[int]:
        """End the remaining processes of the engine, and return those that could not be ended."""
        if self._lock < 0:
            return []
        left = _end(self.text)
        if not left:
            self._path.unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = -1
        return left


def end_orphans() -> None:
    """End the processes of killed runs of this user."""
    for path in locks.folder().glob(f"*{_SUFFIX}"):
        lock = locks.opened(path.name)
        try:
            if locks.taken(lock) and not _end(path.name.removesuffix(_SUFFIX)):
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def _marked(mark: str) -> set[int]:
    """Return the processes with *mark* in their environment or in the list of *mark*, and all below them."""
    wanted, listed, found = f"{VARIABLE}={mark}".encode(), _listed(mark), set()
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else ()):  # noqa: PTH208, PTH112
        pid = int(name)
        if pid in listed and listed[pid] == _supervisor.started(pid):
            found.add(pid)
        with suppress(OSError):  # of another user, or ended meanwhile
            if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found.union(*map(_supervisor.descendants, found)) - {os.getpid()}


def _listed(mark: str) -> dict[int, int]:
    """Return the start of each process in the list of *mark*."""
    with suppress(OSError):
        text = (locks.folder() / f"{mark}{_SUFFIX}").read_bytes()[locks.NOTE_BYTES :]
        rows = [line.split() for line in text.split(b"\n")[:-1]]
        return {int(row[0]): int(row[1]) for row in rows if len(row) == 2 and all(map(bytes.isdigit, row))}
    return {}


def _end(mark: str) -> list[int]:
    """Kill every orphan with *mark*, until none is left or `_GONE_S` has passed, and return the remaining ones."""
    end_s = time.monotonic() + _GONE_S
    while left := sorted(_marked(mark)):
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end_s:
            return left
        time.sleep(0.02)
    return []
