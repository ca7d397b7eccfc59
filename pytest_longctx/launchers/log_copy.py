"""A copy of a log that arrives over a connection, as a file of limited size."""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

MOST_BYTES: Final = 256 * 2**20
"""Most bytes of a log that are kept on this machine's disk, even if a container writes more."""


class LogCopy:
    """Copy of a log's pieces in the file at *path*. Data after `MOST_BYTES` is read and dropped."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._left = MOST_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        """Append a piece of the log to the copy, up to the limit."""
        if self._left <= 0 or not piece:
            return
        self._file.write(piece[: self._left])
        self._left -= len(piece)
        if self._left <= 0:
            self._file.write(
                f"\n[longctx] the log has more than {MOST_BYTES // 2**20} MiB; the rest was not saved\n".encode()
            )
