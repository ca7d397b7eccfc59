"""A log by the engine's name, and a diagnosis from the log alone."""

from pathlib import Path

import pytest

from pytest_longctx.backends.logs import diagnose, read_log
from pytest_longctx.diagnosis.diagnose import Evidence
from pytest_longctx.errors import UsageError

LOGS = Path(__file__).parents[2] / "data/logs"
FAILED = LOGS / "sglang-0.5.16-1xh200-10m-oom-default-requests.log"
SERVED = LOGS / "vllm-0.32.0-cpu-64k-serving.log"


@pytest.mark.parametrize("path", [FAILED, str(FAILED)], ids=["a path", "a string"])
def test_a_log_is_read_by_its_engine_and_diagnosed(path):
    cause = diagnose(read_log(path, engine="sglang"))
    assert cause is not None
    assert (cause.outcome, cause.confidence) == ("runs out of memory", "certain")
    assert cause.sizes["allocation_gib"] == 2.22


def test_a_log_without_an_error_is_no_failure():
    assert diagnose(read_log(SERVED, engine="vllm-cpu")) is None


def test_with_what_else_is_known_of_its_end_it_may_be_one():
    cause = diagnose(read_log(SERVED, engine="vllm-cpu"), Evidence(exit_code=3))
    assert cause is not None
    assert "exited with code 3" in cause.cause


def test_an_error_that_is_in_no_catalogue_is_quoted(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("Traceback (most recent call last):\n  File 'x', line 1\nFrobError: the frob is bent\n")
    cause = diagnose(read_log(log, engine="vllm"))
    assert cause is not None
    assert cause.confidence == "unknown"
    assert "FrobError: the frob is bent" in cause.cause


def test_an_engine_that_is_not_known_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="unknown backend 'vlm': did you mean 'vllm'"):
        read_log(SERVED, engine="vlm")
