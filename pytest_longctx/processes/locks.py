"""
Locks between the runs of one user, in a folder that no other user can write to.

The kernel releases a lock when its process ends. A lock names its holder, so a waiting run can report it.
"""

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pytest_longctx.errors import LaunchError
from pytest_longctx.processes.progress import Progress, ProgressCallback, no_progress
from pytest_longctx.redaction import shown
from pytest_longctx.units import duration

_POLL_S: Final = 0.05
SAID_AFTER_S: Final = 5.0
"""A wait longer than this is reported."""
STOPPED_S: Final = 60.0
"""A run gives up waiting for a lock after its holder has been stopped for this long."""
NOTE_BYTES: Final = 64
"""Bytes at the beginning of a lock for its holder."""


def folder() -> Path:
    """
    Return the folder of the locks: in ``XDG_RUNTIME_DIR``, else in the folder for temporary files.

    Raises `LaunchError` if it is not a folder of this user alone, because another user could then replace a lock.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = bool(runtime) and Path(runtime).is_absolute() and _is_own(Path(runtime))
    place = (
        Path(runtime) / "pytest-longctx" if usable else Path(tempfile.gettempdir()) / f"pytest-longctx-{os.getuid()}"
    )
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    if not _is_own(place):
        raise LaunchError(
            f"{place} must be a folder that only this user can use; otherwise the locks in it cannot be trusted\n"
            "  found    " + _described(place) + "\n"
            "  try      remove it, or set XDG_RUNTIME_DIR to a folder of your own with mode 700"
        )
    return place


def _is_own(place: Path) -> bool:
    try:
        seen = place.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & 0o022


def _described(place: Path) -> str:
    try:
        seen = place.lstat()
    except OSError as problem:
        return str(problem.strerror)
    return f"{stat.filemode(seen.st_mode)}, owner {seen.st_uid}; this user is {os.getuid()}"


def opened(name: str) -> int:
    """
    Return the descriptor of the lock *name*, opened without following a link and without changing the file. Raises
    `LaunchError`.
    """
    path = folder() / name
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as problem:
        linked = problem.errno in (errno.ELOOP, errno.EISDIR, errno.EACCES)
        remedy = "remove it" if linked else "more file descriptors (ulimit -n), or space, for this process"
        raise LaunchError(f"the lock {path} cannot be opened: {problem.strerror}\n  try      {remedy}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LaunchError(f"the lock {path} must be a regular file\n  try      remove this path")
    return descriptor


def taken(descriptor: int) -> bool:
    """Take a lock file without waiting, and write this process's id to it. Return False if another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    with suppress(OSError):  # a full disk: the lock holds without its note
        os.pwrite(descriptor, str(os.getpid()).encode().ljust(NOTE_BYTES), 0)
    return True


def holder(descriptor: int) -> tuple[str, bool]:
    """Return a description of the process that holds a lock, and whether that process is stopped or cannot be interrupted."""
    note = os.pread(descriptor, NOTE_BYTES, 0).strip()
    return look(int(note)) if note.isdigit() else ("another process", False)


def described(pid: int) -> str:
    """Return a description of process *pid*, the holder of a lock: its command, and what it waits for."""
    return look(pid)[0]


def look(pid: int) -> tuple[str, bool]:
    """Return a description of process *pid*, and whether it is stopped."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return f"process {pid}", False
    halted = {"T": ", which is stopped", "t": ", which a debugger has stopped", "D": ", which waits for a device"}.get(
        state, ""
    )
    return f"process {pid} ({' '.join(shown(command).split())[:80]}){halted}", state in ("T", "t")


@contextmanager
def held(name: str, what: str, watch: ProgressCallback = no_progress) -> Iterator[None]:
    """
    Hold the lock *name* of *what*. While another process holds it for longer than `SAID_AFTER_S`, report that process.

    Raises `LaunchError` if its holder is stopped for `STOPPED_S`: the wait would never end.
    """
    descriptor = opened(name)
    try:
        began_s, running_s = time.monotonic(), time.monotonic()
        while not taken(descriptor):
            now_s = time.monotonic()
            who, halted = holder(descriptor)
            running_s = running_s if halted else now_s
            if now_s - running_s > STOPPED_S:
                raise LaunchError(
                    f"{what} is in use by {who}\n"
                    f"  waited   {duration(now_s - began_s)}, and it was stopped for {duration(now_s - running_s)} of it\n"
                    "  try      resume the process (kill -CONT PID), or end it"
                )
            if now_s - began_s > SAID_AFTER_S:
                watch(Progress(what, f"waiting for {who}", now_s - began_s, now_s - began_s))
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
