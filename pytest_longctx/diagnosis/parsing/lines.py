"""
A log as bytes: cut into lines, from chunks of any size or from a file that another process is writing.

This module keeps at most one line in memory. The boundaries of the chunks never change the result.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LONGEST_LINE = 64 * 1024
"""Most bytes of a line that are read; the rest is skipped."""
_CHUNK_BYTES: Final = 1 << 20
_MOST_AT_ONCE: Final = 2
"""Most chunks of a growing log that are read at a time. Without a limit a fast writer would keep the reader for ever."""
_MOST_AT_END: Final = 16
"""Chunks that are read when the log has ended. The last chunk has the reason why the server ended."""


class Lines:
    """Cutter of chunks into whole lines, each with a newline and none longer than `LONGEST_LINE`."""

    def __init__(self) -> None:
        self._rest = b""
        self._passing = False
        """Whether the next bytes are the rest of a line that was cut."""

    def take(self, chunk: bytes) -> bytes:
        """Return the whole lines of the log that *chunk* completes. A carriage return also ends a line, as in progress bars."""
        chunk = chunk.replace(b"\r", b"\n")
        if self._passing:
            end = chunk.find(b"\n")
            if end < 0:
                return b""
            chunk = chunk[end + 1 :]
        data = self._rest + chunk if self._rest else chunk
        self._passing = False
        whole, kept, start = [], 0, 0
        while len(data) - start > LONGEST_LINE:
            end = data.rfind(b"\n", start, start + LONGEST_LINE + 1)
            if end >= 0:
                start = end + 1
                continue
            whole += [data[kept : start + LONGEST_LINE], b"\n"]
            kept = start = data.find(b"\n", start + LONGEST_LINE) + 1
            if start == 0:
                self._passing = True
                kept = start = len(data)
        end = max(start, data.rfind(b"\n", start) + 1)
        whole.append(data[kept:end])
        self._rest = data[end:]
        return b"".join(whole)

    def rest(self) -> bytes:
        """Return the last line of a log that ends without a newline."""
        last, self._rest = self._rest, b""
        return last + b"\n" if last else b""


class LogTail:
    """Reader of the new lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._lines = Lines()

    def more(self, *, ended: bool) -> Iterator[str]:
        """
        Yield the new whole lines of a growing log. Once the writer has *ended*, also yield a last line without a
        newline.
        """
        if ended:
            last = os.fstat(self._file.fileno()).st_size - _MOST_AT_END * _CHUNK_BYTES
            self._file.seek(max(last, self._file.tell()))
        for _ in range(_MOST_AT_END + 1 if ended else _MOST_AT_ONCE):
            if not (chunk := self._file.read(_CHUNK_BYTES)):
                break
            yield from _text(self._lines.take(chunk))
        if ended:
            yield from _text(self._lines.rest())

    def close(self) -> None:
        """Close the log file whose lines are read."""
        self._file.close()


def _text(block: bytes) -> list[str]:
    return block.decode("utf-8", "replace").split("\n")[:-1]
