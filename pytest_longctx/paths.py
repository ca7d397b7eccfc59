"""Paths of the suites and their data, of files kept between runs, and of output files."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pytest_longctx.errors import UsageError

_PACKAGE = Path(__file__).parent
_DATA = ("findings", "deployments", "tasks")


def suites() -> Path:
    """Return the folder of the suites: inside the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "suites"
    return inside if inside.is_dir() else _PACKAGE.parent / "suites"


def data(own: Iterable[Path], option: str) -> tuple[Path, ...]:
    """Return the data folders: the suites, and the project's *own* folders given by *option*. Raises `UsageError`."""
    own = tuple(own)
    for folder in own:
        if not folder.is_dir():
            raise UsageError(f"{option}: folder not found: {folder}")
        if not any((folder / kind).is_dir() for kind in _DATA):
            raise UsageError(f"{option}: {folder} has none of {', '.join(f'{kind}/' for kind in _DATA)}")
    return (suites(), *own)


def kept() -> Path:
    """Return the folder for engines and synthetic models: ``LONGCTX_HOME``, or ``pytest-longctx`` in the user's cache."""
    if home := os.environ.get("LONGCTX_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pytest-longctx"


def write(path: Path, text: str) -> None:
    """
    Write *text* to the output file at *path*, and create its folder.

    Raises `OSError`, also for a pipe that no process reads: writing to it would wait without end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", opener=without_waiting) as file:
        file.write(text)


def without_waiting(name: str, flags: int) -> int:
    """
    Open the file or pipe *name*, for ``open(..., opener=without_waiting)``, and return its descriptor. A pipe without a
    writer is read as empty.

    Raises `OSError` for writing to a pipe that no process reads, and for reading from a device, which may have no end.
    """
    found = os.open(name, flags | os.O_NONBLOCK, 0o666)
    mode = os.fstat(found).st_mode
    if not flags & (os.O_WRONLY | os.O_RDWR) and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
        os.close(found)
        raise OSError(errno.EINVAL, "must be a file or a pipe; found a device", name)
    os.set_blocking(found, True)
    return found
