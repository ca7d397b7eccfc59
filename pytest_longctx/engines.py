"""Engines live in environments of their own: find the interpreter that has one, or make one."""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from pytest_longctx import home
from pytest_longctx.backends import Backend
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


def own_python(backend: Backend) -> Path:
    """The interpreter of the environment that ``longctx engine`` makes for *backend*."""
    return home.kept() / "engines" / backend.name / "bin" / "python"


def interpreter(backend: Backend, wanted: Path | None = None) -> Path:
    """
    The interpreter that has *backend*'s engine: *wanted*, else its own environment, else this one.

    Raises `LaunchError` saying where it was looked for.
    """
    here = Path(sys.executable)
    if backend.package is None:
        return wanted or here
    looked = []
    for python in (wanted,) if wanted else (own_python(backend), here):
        if python.is_file() and installed_version(backend, python) is not None:
            return python
        looked.append(f"{python} ({f'no {backend.package} in it' if python.is_file() else 'not there'})")
    remedy = f"longctx engine {backend.name}" if backend.install else "install it in an environment of its own"
    raise LaunchError(
        f"the engine of backend {backend.name!r} is not installed\n"
        f"  checked  {', '.join(looked)}\n"
        f"  try      {remedy}, or name an interpreter that has it with --longctx-python"
    )


def installed_version(backend: Backend, python: Path) -> str | None:
    """
    The version of *backend*'s engine that *python* has, without importing it; None where it has none.

    "unknown" where the module is there without metadata, as in an engine unpacked by hand.
    """
    if backend.package is None:
        return None
    command = [str(python), "-c", _ASK_VERSION, backend.package, *backend.distributions]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def install(backend: Backend, say: Callable[[str], None]) -> Path:
    """Install *backend*'s engine into an environment of its own and return its interpreter."""
    if not backend.install:
        raise UsageError(
            f"longctx cannot install the engine of backend {backend.name!r}; install it by its own instructions"
        )
    python = own_python(backend)
    if python.is_file() and installed_version(backend, python) is not None:
        say(f"{backend.name}: {installed_version(backend, python)} is already in {python.parent.parent}")
        return python
    say(
        f"{backend.name}: installing {', '.join(backend.install)} into {python.parent.parent} (a few GB, a few minutes)"
    )
    venv.create(python.parent.parent, with_pip=True, clear=True)
    _pip(python, "install", *backend.install)
    if backend.uninstall:
        _pip(python, "uninstall", "-y", *backend.uninstall)
    say(f"{backend.name}: {installed_version(backend, python)} is ready")
    return python


def _pip(python: Path, *arguments: str) -> None:
    try:
        subprocess.run([str(python), "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)
    except subprocess.CalledProcessError as problem:
        raise LaunchError(f"pip {' '.join(arguments)} failed with exit code {problem.returncode}; see above") from None
