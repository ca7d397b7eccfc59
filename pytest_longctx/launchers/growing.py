"""A log file that somebody else is writing, read line by line as it grows."""

from collections.abc import Iterator
from pathlib import Path


class GrowingLog:
    """Reads what a file has gained since it was last asked."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r", encoding="utf-8", errors="replace")
        self._partial = ""

    def more(self, *, ended: bool) -> Iterator[str]:
        """Whole new lines; once the writer has *ended*, also a last one without its line feed."""
        *whole, self._partial = (self._partial + self._file.read()).split("\n")
        yield from whole
        if ended and self._partial:
            yield self._partial
            self._partial = ""

    def close(self) -> None:
        """Read no more."""
        self._file.close()
