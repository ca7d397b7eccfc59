"""Read a whole log in chunks."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.lines import Lines
from pytest_longctx.diagnosis.signatures import Catalogue

_CHUNK_BYTES: Final = 1 << 20


def read(chunks: Iterable[bytes], catalogue: Catalogue, version: str | None = None) -> LogReader:
    """Return a log reader that has read a log, given in chunks of any size."""
    reading, lines = LogReader(catalogue, version), Lines()
    for chunk in chunks:
        reading.read(lines.take(chunk))
    reading.read_rest(lines.rest())
    return reading


def read_file(path: Path, catalogue: Catalogue, version: str | None = None) -> LogReader:
    """Return a log reader that has read the log file at *path*, as far as the file is written."""
    with path.open("rb") as log:
        return read(iter(lambda: log.read(_CHUNK_BYTES), b""), catalogue, version)
