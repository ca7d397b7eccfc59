"""Find the interpreter whose environment contains an engine or a tool, or create such an environment."""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pytest_longctx import paths
from pytest_longctx.errors import LaunchError, UsageError

_ASK_VERSION = """
import importlib.metadata as m, importlib.util as u, sys
sys.path.pop(0)  # the working directory: a folder that happens to be called like the engine is not the engine
if u.find_spec(sys.argv[1]):
    for name in sys.argv[2:]:
        try: print(m.version(name)); break
        except m.PackageNotFoundError: pass
    else: print("unknown")
"""


class Installable(Protocol):
    """The properties of a backend's engine, or of a tool, by which its environment is found or installed."""

    @property
    def name(self) -> str:
        """Name of the installable engine or tool in ``longctx engine``."""

    @property
    def called(self) -> str:
        """Name of the installable engine or tool in messages."""

    @property
    def elsewhere(self) -> str:
        """Last part of the message if no environment has the engine: other ways to install it."""

    @property
    def package(self) -> str | None:
        """Name of the module that the environment must have; None: any interpreter works."""

    @property
    def distributions(self) -> tuple[str, ...]:
        """Names of the engine's distributions, in the order in which they are asked for the version."""

    @property
    def install(self) -> tuple[str, ...]:
        """
        Requirements that ``longctx engine`` installs into the environment; empty if the command cannot install this
        engine.
        """

    @property
    def uninstall(self) -> tuple[str, ...]:
        """Distributions to remove from the environment after the installation."""


def own_python(engine: Installable) -> Path:
    """Return the interpreter of the environment that ``longctx engine`` creates for *engine*."""
    return paths.kept() / "engines" / engine.name / "bin" / "python"


def interpreter(engine: Installable, wanted: Path | None = None) -> Path:
    """
    Return an interpreter with *engine*: *wanted*, the interpreter of the engine's separate environment, or this
    interpreter.

    Raises `LaunchError` with the places that were searched.
    """
    here = Path(sys.executable)
    if engine.package is None:
        return wanted or here
    looked = []
    for python in (wanted,) if wanted else (own_python(engine), here):
        if python.is_file() and installed_version(engine, python) is not None:
            return python
        looked.append(f"{python} ({f'no {engine.package} in it' if python.is_file() else 'not there'})")
    remedy = f"longctx engine {engine.name}" if engine.install else "install the engine in a separate environment"
    raise LaunchError(
        f"{engine.called} is not installed\n  checked  {', '.join(looked)}\n  try      {remedy}{engine.elsewhere}"
    )


def installed_version(engine: Installable, python: Path) -> str | None:
    """
    Return the version of *engine* in the environment of *python*, without an import; None if not installed.

    The version is "unknown" if the module has no metadata, as after unpacking it by hand.
    """
    if engine.package is None:
        return None
    command = [str(python), "-c", _ASK_VERSION, engine.package, *engine.distributions]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def install(engine: Installable, say: Callable[[str], None]) -> Path:
    """Install *engine* into a new environment and return its interpreter."""
    if not engine.install:
        raise UsageError(f"longctx cannot install {engine.called}; follow its own installation instructions")
    python = own_python(engine)
    if python.is_file() and installed_version(engine, python) is not None:
        say(f"{engine.name}: {installed_version(engine, python)} is already in {python.parent.parent}")
        return python
    say(
        f"{engine.name}: installing {', '.join(engine.install)} into {python.parent.parent} (up to a few GB and minutes)"
    )
    venv.create(python.parent.parent, with_pip=True, clear=True)
    _pip(python, "install", *engine.install)
    if engine.uninstall:
        _pip(python, "uninstall", "-y", *engine.uninstall)
    say(f"{engine.name}: {installed_version(engine, python)} is ready")
    return python


def _pip(python: Path, *arguments: str) -> None:
    try:
        subprocess.run([str(python), "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)
    except subprocess.CalledProcessError as problem:
        raise LaunchError(f"pip {' '.join(arguments)} failed with exit code {problem.returncode}; see above") from None
