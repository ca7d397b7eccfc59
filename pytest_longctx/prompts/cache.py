"""
Disk cache of tokenised text, so that a corpus is tokenised once for each length.

An entry is an ``.npy`` file of bytes with a checksum in its last four bytes. It appears completely or not at all. Workers
that need the same entry wait for the worker that creates it. If the cache is full, the least recently read entries are
deleted first.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pytest_longctx import paths
from pytest_longctx.units import GiB

Bytes = npt.NDArray[np.uint8]
_SUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class TokenCache:
    """A cache folder with a size limit of about *limit_bytes*."""

    folder: Path
    limit_bytes: int = 2 * GiB

    def fetch(self, what: dict[str, str | int], build: Callable[[], Bytes]) -> Bytes:
        """
        Return the cached tokens of *what*, memory-mapped. If the entry is missing or damaged, *build* makes it.

        If the folder is not writable, the entry is built each time.
        """
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.npy"
        found = _read(path)
        if found is not None:
            return found
        with self._alone(name):
            found = _read(path)  # created by another worker during the wait
            if found is not None:
                return found
            made = build()
            with suppress(OSError):
                self._write(path, made)
                self._make_room(path)
        return made

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        with ExitStack() as held:
            with suppress(OSError):
                self.folder.mkdir(parents=True, exist_ok=True)
                # One of 256 permanent files, because a deleted lock file could be locked twice.
                lock = held.enter_context((self.folder / f"{name[:2]}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, path: Path, data: Bytes) -> None:
        handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                check = np.frombuffer(zlib.crc32(data.data).to_bytes(_SUM_BYTES, "little"), dtype=np.uint8)
                np.save(file, np.concatenate((data, check)))
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _make_room(self, newest: Path) -> None:
        """Delete the least recently read entries of the token cache. The newest entry is kept, however large it is."""
        entries = list[tuple[float, int, Path]]()
        for path in self.folder.glob("*.npy"):
            try:
                seen = path.stat()
            except FileNotFoundError:  # another worker deleted it
                continue
            entries.append((seen.st_mtime, seen.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)  # processes that have it mapped keep it
                total -= size


def _read(path: Path) -> Bytes | None:
    """Return the bytes of the token cache's entry at *path*; ``None`` without a complete entry."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        os.utime(path)
    except (OSError, ValueError, EOFError):
        return None
    if stored.ndim != 1 or stored.dtype != np.uint8 or stored.size < _SUM_BYTES:
        return None
    data: Bytes = stored[:-_SUM_BYTES]
    return data if zlib.crc32(data.data) == int.from_bytes(stored[-_SUM_BYTES:].tobytes(), "little") else None


def token_cache() -> TokenCache:
    """Return this machine's token cache."""
    return TokenCache(paths.kept() / "prompts")
