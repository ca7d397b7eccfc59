"""One at a time: what is measured on a server must be alone on it, whichever process of this machine asks."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(url: str) -> Iterator[None]:
    """
    Wait until nobody else of this user measures the server at *url*, and keep others waiting meanwhile.

    Workers of one run that share a server take turns by this; the kernel gives the turn back if one of them dies.
    """
    folder = Path(tempfile.gettempdir()) / f"pytest-longctx-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
