"""A log file that somebody else is writing, read line by line as it grows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_longctx.diagnosis.log_lines import Lines

_CHUNK_BYTES: Final = 1 << 20


class GrowingLog:
    """Reads what a file has gained since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._lines = Lines()

    def more(self, *, ended: bool) -> Iterator[str]:
        """Whole new lines; once the writer has *ended*, also a last one without its line feed."""
        while chunk := self._file.read(_CHUNK_BYTES):
            yield from _text(self._lines.take(chunk))
        if ended:
            yield from _text(self._lines.rest())

    def close(self) -> None:
        """Read no more."""
        self._file.close()


def _text(block: bytes) -> list[str]:
    return block.decode("utf-8", "replace").split("\n")[:-1]
