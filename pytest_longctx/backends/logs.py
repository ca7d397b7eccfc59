"""Read an engine's log by the engine's name, and diagnose a failure from the log alone."""

from pathlib import Path

from pytest_longctx.backends import named
from pytest_longctx.diagnosis import diagnose as diagnosis
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence
from pytest_longctx.diagnosis.log_file import read_file
from pytest_longctx.diagnosis.log_reader import LogReader


def read_log(path: str | Path, engine: str) -> LogReader:
    """
    Return the reader of the engine's log at *path*. *engine* is a backend's name, such as ``vllm``. Raises `UsageError`
    and OSError.
    """
    return read_file(Path(path), named(engine).catalogue)


def diagnose(reading: LogReader, given: Evidence | None = None) -> Diagnosis | None:
    """
    Return the diagnosis of the failure in a server's log; None if neither the log nor *given*, other evidence of the
    end, shows a failure.
    """
    failed = reading.failure or reading.errors.text or reading.errors.complaint
    return diagnosis.diagnose(reading, given or Evidence()) if failed or given else None
