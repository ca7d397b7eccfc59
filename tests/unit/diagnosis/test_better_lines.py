"""Of several lines about one failure, the one that says most is quoted; a line that only announces or repeats is not."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess
from pytest_longctx.diagnosis.log_file import read

CATALOGUES = catalogues()
CORE = "(EngineCore pid=7) ERROR 02-03 10:00:0{} [core.py:9] "
HEADING = "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig"
REASON = "  Value error, the number of stages is odd [type=value_error, input_value=3, input_type=int]"
NO_MEMORY = "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 3.50G. That was not possible."


def answer(*lines: str, engine: str = "vllm", exit_code: int | None = 1) -> Diagnosis | None:
    log = "\n".join([*lines, ""]).encode()
    return assess(read([log], CATALOGUES[engine]), Evidence(exit_code=exit_code))[1]


def test_a_heading_that_is_logged_before_its_message_is_not_quoted():
    head = CORE.format(1)
    found = answer(
        f"{head}Traceback (most recent call last):",
        head + HEADING,
        "(APIServer pid=5) Traceback (most recent call last):",
        '(APIServer pid=5)   File "/x/vllm/engine/arg_utils.py", line 3, in create_engine_config',
        "(APIServer pid=5)     return SchedulerConfig(",
        f"(APIServer pid=5) {HEADING}",
        f"(APIServer pid=5) {REASON}",
    )
    assert found is not None
    assert (found.kind, REASON.strip() in found.cause) == ("config", True)


def test_a_heading_alone_is_quoted():
    found = answer("Traceback (most recent call last):", '  File "/x/y.py", line 3, in f', "    g()", HEADING)
    assert found is not None
    assert HEADING in found.cause


def test_memory_that_a_runtime_reports_has_the_phase_of_the_traceback_after_it():
    head = CORE.format(2)
    found = answer(
        f"E0203 10:00:02.000001   11 pjrt_client.cc:7] {NO_MEMORY}",
        f"{head}Traceback (most recent call last):",
        f'{head}  File "/x/tpu_inference/worker/tpu_worker.py", line 3, in load_model',
        f"{head}    self.load()",
        f"{head}jax.errors.JaxRuntimeError: {NO_MEMORY}",
    )
    assert found is not None
    assert (found.kind, found.phase) == ("gpu-oom-weights", "load")


def test_an_error_that_a_program_says_it_ignores_counts_where_the_boot_then_ends():
    waited = "[/x/gloo/transport/tcp/unbound_buffer.cc:31] Timed out waiting 240000ms for recv operation to complete"
    found = answer(
        f"{CORE.format(1)}Error ignored in has_peer: {waited}",
        f"{CORE.format(2)}Traceback (most recent call last):",
        f'{CORE.format(2)}  File "/x/torch/distributed/distributed_c10d.py", line 3, in barrier',
        f"{CORE.format(2)}    work.wait()",
        f"{CORE.format(2)}RuntimeError: [/x/gloo/transport/tcp/pair.cc:7] Connection closed by peer [192.0.2.3]:4",
    )
    assert found is not None
    assert (found.kind, waited in found.cause) == ("rank-unreachable", True)


@pytest.mark.parametrize("message", ["CUDA error", "HipVMM Failure: invalid argument"])
def test_an_abort_of_ggml_for_an_error_of_the_runtime_is_no_failed_check(message):
    found = answer(f"/x/ggml/src/ggml-cuda/ggml-cuda.cu:31: {message}", engine="llamacpp", exit_code=134)
    assert found is not None
    assert found.kind == "unknown"


def test_an_answer_in_an_access_log_of_fields_shows_a_server_at_work():
    request = (
        'request | tid="1" timestamp=2 remote_addr="127.0.0.1" status=200 method="POST" path="/completion" params={}'
    )
    log = f"INFO [      log_server_request] {request}\n".encode()
    assert assess(read([log], CATALOGUES["llamacpp"]), Evidence()) == ("healthy", None)
