"""An engine's log by the engine's name: read it, and diagnose it without anything else being known."""

from pathlib import Path

from pytest_longctx.backends import named
from pytest_longctx.diagnosis import diagnose as diagnosis
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence
from pytest_longctx.diagnosis.log_reader import LogReader, read_file


def read_log(path: str | Path, engine: str) -> LogReader:
    """What the log at *path* says; *engine* is a backend's name, such as ``vllm``. Raises `UsageError` and OSError."""
    return read_file(Path(path), named(engine).catalogue)


def diagnose(reading: LogReader, given: Evidence | None = None) -> Diagnosis | None:
    """
    Why the server behind *reading* failed; *given* is what else is known of its end, such as an exit code.

    None where nothing else is known and its log has no error: a log alone does not tell that a server has failed.
    """
    failed = reading.failure or reading.errors.text or reading.errors.complaint
    return diagnosis.diagnose(reading, given or Evidence()) if failed or given else None
