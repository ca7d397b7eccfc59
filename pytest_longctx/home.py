"""Where things are: the suites and their data, and what this machine keeps between runs."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent


def suites() -> Path:
    """The folder of the suites: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "suites"
    return inside if inside.is_dir() else _PACKAGE.parent / "suites"


def kept() -> Path:
    """What is kept between runs, engines and made models: ``LONGCTX_HOME``, or ``pytest-longctx`` in the user's cache."""
    if home := os.environ.get("LONGCTX_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pytest-longctx"
