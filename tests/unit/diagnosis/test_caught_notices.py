"""Exceptions that a boot got past: told of at a level below ERROR, or before it came up. What ended it stands later."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess
from pytest_longctx.diagnosis.log_file import read

VLLM = catalogues()["vllm"]
PREFIX = "(EngineCore pid=41) {level} 03-02 10:00:0{second} [{where}] "
UP = ["INFO:     Application startup complete."]
FATAL = "EngineCore encountered a fatal error."


def told(
    level: str, second: int, exception: str, *, everywhere: bool = True, before: str = "Step failed."
) -> list[str]:
    """A traceback as an engine logs it; not *everywhere*: with the prefix on its first line alone."""
    head = PREFIX.format(level=level, second=second, where="warmup.py:31")
    lines = [
        before,
        "Traceback (most recent call last):",
        '  File "/x/vllm/v1/worker/gpu_worker.py", line 9, in run',
        "    from xkernels import run",
        exception,
    ]
    return [head + line if everywhere or number == 0 else line for number, line in enumerate(lines)]


def answer(*parts: list[str]) -> Diagnosis | None:
    text = "\n".join([line for part in parts for line in part] + [""])
    return assess(read([text.encode()], VLLM), Evidence(exit_code=1))[1]


MISSING = "ModuleNotFoundError: No module named 'xkernels'"
MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
UNKNOWN = "RuntimeError: the seventh wheel came off"


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("level", ["WARNING", "INFO", "DEBUG"])
def test_of_two_lines_of_one_cause_the_fatal_one_is_quoted(level, everywhere):
    found = answer(told(level, 1, MISSING, everywhere=everywhere), UP, told("ERROR", 3, MISSING, before=FATAL))
    assert found is not None
    assert (found.kind, found.phase) == ("environment", "request")
    assert " ERROR " in found.cause


def test_a_notice_is_no_cause_beside_an_error_of_another_kind():
    found = answer(told("WARNING", 1, MISSING), told("ERROR", 3, MEMORY))
    assert found is not None
    assert found.kind.startswith("gpu-oom")


def test_a_notice_is_no_cause_where_an_exception_of_unknown_words_ended_the_boot():
    found = answer(told("WARNING", 1, MISSING), told("ERROR", 3, UNKNOWN))
    assert found is not None
    assert (found.kind, UNKNOWN in found.cause) == ("unknown", True)


def test_what_came_before_the_boot_was_up_is_no_cause_of_a_later_death():
    found = answer(told("ERROR", 1, MISSING), UP, told("ERROR", 3, MEMORY, before=FATAL))
    assert found is not None
    assert found.kind == "gpu-oom-request"


def test_a_notice_alone_is_told_of():
    found = answer(told("WARNING", 1, MISSING))
    assert found is not None
    assert found.kind == "environment"


def test_of_two_errors_before_it_was_up_the_first_is_the_cause():
    found = answer(told("ERROR", 1, MISSING), told("ERROR", 3, MEMORY))
    assert found is not None
    assert found.kind == "environment"
