"""
Find and end the processes that a killed run has left.

A supervisor ends all descendants of its engine. If it is itself killed with SIGKILL, workers in their own sessions
survive. Each of them has the mark of its engine in its environment. A lock shows whether the run that started the
engine is still alive. The kernel releases it with that run, so the next run can end the remaining processes.
"""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_longctx.processes import locks

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

    def marked(self) -> list[int]:
        """Return the ids of the engine's processes that still run."""
        return list(_marked(self.text))

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


def _marked(mark: str) -> Iterator[int]:
    wanted = f"{VARIABLE}={mark}".encode()
    for name in filter(str.isdecimal, os.listdir("/proc") if os.path.isdir("/proc") else ()):  # noqa: PTH208, PTH112
        with suppress(OSError):  # of another user, or ended meanwhile
            if int(name) != os.getpid() and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                yield int(name)


def _end(mark: str) -> list[int]:
    """Kill every orphan with *mark*, until none is left or `_GONE_S` has passed, and return the remaining ones."""
    end_s = time.monotonic() + _GONE_S
    while left := list(_marked(mark)):
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end_s:
            return left
        time.sleep(0.02)
    return []
