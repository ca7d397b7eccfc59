"""The shipped backends and launchers, provided through the hooks that other plugins use too."""

from typing import TYPE_CHECKING

import pytest

from pytest_longctx.registry import BACKENDS, LAUNCHERS, load

if TYPE_CHECKING:
    from pytest_longctx.backends import Backend
    from pytest_longctx.launchers import Launcher


@pytest.hookimpl(trylast=True)
def pytest_longctx_make_backend(name: str) -> "Backend | None":
    """Return the built-in backend with the name *name*; None if no built-in backend has that name."""
    made: Backend | None = load(BACKENDS[name])() if name in BACKENDS else None
    return made


@pytest.hookimpl(trylast=True)
def pytest_longctx_make_launcher(kind: str, what: str) -> "Launcher | None":
    """Return the built-in launcher of *kind*; None if no built-in launcher has that kind."""
    made: Launcher | None = load(LAUNCHERS[kind])(what) if kind in LAUNCHERS else None
    return made


def pytest_longctx_names(what: str) -> list[str]:
    """Return the names of the built-in backends, or of the built-in launchers."""
    return sorted(BACKENDS if what == "backend" else LAUNCHERS)
