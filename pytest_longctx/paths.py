"""Where things are: the suites and their data, and what this machine keeps between runs."""

import os
from collections.abc import Iterable
from pathlib import Path

from pytest_longctx.errors import UsageError

_PACKAGE = Path(__file__).parent
_DATA = ("findings", "deployments", "tasks")


def suites() -> Path:
    """The folder of the suites: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "suites"
    return inside if inside.is_dir() else _PACKAGE.parent / "suites"


def data(own: Iterable[Path], option: str) -> tuple[Path, ...]:
    """Where data is read from: the suites, and the project's *own* folders, named by *option*. Raises `UsageError`."""
    own = tuple(own)
    for folder in own:
        if not folder.is_dir():
            raise UsageError(f"{option}: there is no folder {folder}")
        if not any((folder / kind).is_dir() for kind in _DATA):
            raise UsageError(f"{option}: {folder} has none of {', '.join(f'{kind}/' for kind in _DATA)}")
    return (suites(), *own)


def kept() -> Path:
    """What is kept between runs, engines and made models: ``LONGCTX_HOME``, or ``pytest-longctx`` in the user's cache."""
    if home := os.environ.get("LONGCTX_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pytest-longctx"
