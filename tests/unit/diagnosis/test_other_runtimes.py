"""Statements of runtimes, shells and libraries below an engine, in lines that no log of a set contains."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read

ENGINES = catalogues()
SERVES = "INFO:     Application startup complete."
ANSWERS = 'INFO:     127.0.0.1:40022 - "POST /v1/completions HTTP/1.1" 200 OK'
HEADER = "Traceback (most recent call last):"
FRAME = '  File "/x/plugin/worker.py", line 7, in init_device'


def assessed(*lines, engine="vllm", ended=None):
    return assess(read(["\n".join([*lines, ""]).encode()], ENGINES[engine]), ended or Evidence(exit_code=1))


def kind(*lines, engine="vllm"):
    found = assessed(*lines, engine=engine)[1]
    return found and found.kind


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        ("RuntimeError: synStatus=20 [Device already acquired] Device acquire failed.", "dirty-gpu"),
        ("RuntimeError: synStatus=8 [Device not found] Device acquire failed.", "device"),
        ("RuntimeError: open(/dev/accel3): Device or resource busy", "dirty-gpu"),
        ("RuntimeError: The TPU is already in use by process with pid 91.", "dirty-gpu"),
        ("OSError: [Errno 16] Device or resource busy: '/mnt/models'", "unknown"),
        ("RuntimeError: rtStreamSynchronize failed: 507015", "gpu-fault"),
        ("RuntimeError: ACL device synchronize failed, error code:507018", "gpu-fault"),
        ("RuntimeError: ACL device synchronize failed, error code:107002", "unknown"),
        ("zmq.error.ZMQError: Protocol not supported (addr='http://192.0.2.1:7777')", "config"),
        ("zmq.error.ZMQError: Address already in use (addr='tcp://192.0.2.1:7777')", "port-taken"),
    ],
)
def test_an_exception_of_a_runtime_is_told_from_its_neighbour(exception, expected):
    assert kind(HEADER, FRAME, exception) == expected


def test_a_device_that_a_library_only_tried_is_no_failure():
    tried = "WARNING:jax: Unable to initialize backend 'tpu': open(/dev/vfio/0): Device or resource busy"
    assert assessed(tried, SERVES, ANSWERS, ended=Evidence()) == ("healthy", None)


@pytest.mark.parametrize(("number", "expected"), [("SIGILL: 4", "wrong-build"), ("SIGSEGV: 11", "segfault")])
def test_the_signal_that_ended_an_inspection_counts_before_the_refusal_that_follows(number, expected):
    prefix = "(APIServer pid=1) ERROR 01-02 03:04:05 [registry.py:741] "
    lines = [
        f"{prefix}Error in inspecting model architecture 'MistralForCausalLM'",
        f"{prefix}{HEADER}",
        f'{prefix}  File "/x/vllm/model_executor/models/registry.py", line 1103, in _run_in_subprocess',
        f"{prefix}subprocess.CalledProcessError: Command '['/x/python3', '-m', 'registry']' died with <Signals.{number}>.",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Model architectures ['MistralForCausalLM'] failed to be inspected.",
    ]
    assert kind(*lines) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Model architectures ['MistralForCausalLM'] failed to be inspected.", "environment"),
        ("The number of heads (40) must be divisible by 16.", "config"),
    ],
)
def test_the_message_under_a_heading_says_more_than_the_heading(message, expected):
    heading = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"
    assert kind(HEADER, FRAME, heading, f"  Value error, {message}") == expected


def test_an_event_of_a_capture_that_another_thread_asks_about_is_a_broken_capture():
    found = assessed(
        "terminate called after throwing an instance of 'c10::DistBackendError'",
        "  what():  CUDA error: operation not permitted on an event last recorded in a capturing stream",
        ended=Evidence(exit_code=-6),
    )[1]
    assert (found.kind, found.phase, found.signature) == ("compile", "graphs", "captured-event")


def test_a_wrapper_of_the_collectives_may_name_its_file_before_the_reason():
    line = "Assertion failed: Failed, NCCL error /x/opUtils.cpp:154 'invalid argument (run with NCCL_DEBUG=WARN for details)'"
    assert kind(f"[TensorRT-LLM][ERROR] {line}", engine="trtllm") == "collective-failed"


@pytest.mark.parametrize("folder", ["vllm/v1/structured_output", "sglang/srt/constrained"])
def test_an_exception_in_an_engines_part_for_grammars_is_one_of_a_grammar(folder):
    frame = f'  File "/x/{folder}/request.py", line 86, in key_of'
    assert kind(SERVES, HEADER, frame, "ValueError: neither a schema nor a regex was given") == "structured-output"


DENIED = "/bin/sh: 1: /opt/venv/bin/sglang: Permission denied"


def test_a_shell_that_may_not_run_the_engine_names_the_cause():
    assert kind(DENIED) == "permission"
    assert kind("/bin/sh: 1: cannot create /var/log/x: Permission denied") == "unknown"


def test_a_shell_that_complains_before_a_healthy_boot_names_none():
    assert assessed(DENIED, SERVES, ANSWERS, ended=Evidence()) == ("healthy", None)


def test_a_permission_that_is_missing_is_no_cause_beside_another():
    assert kind(DENIED, HEADER, FRAME, "RuntimeError: No CUDA GPUs are available") == "device"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("   Main PID: 411 (code=dumped, signal=SEGV)", "ended by SIGSEGV"),
        ("   Main PID: 411 (llama-server) (code=killed, signal=KILL)", "ended by SIGKILL"),
        ("   Main PID: 411 (code=exited, status=3/NOTIMPLEMENTED)", "exited with code 3"),
    ],
)
def test_the_state_of_a_unit_says_how_its_process_ended(line, said):
    state, found = assessed(line, engine="llamacpp", ended=Evidence())
    assert (state, found.kind) == ("failed", "unknown")
    assert said in found.cause


def test_a_running_unit_is_not_ended():
    assert assessed("   Main PID: 411 (llama-server)", engine="llamacpp", ended=Evidence()) == ("unfinished", None)


def test_a_log_that_begins_late_does_not_say_that_the_server_was_starting():
    late = "slot      release: id  3 | task 17 | stop processing"
    killed = "systemd[1]: llama.service: A process of this unit has been killed by the OOM killer."
    found = assessed(late, killed, engine="llamacpp", ended=Evidence())[1]
    assert (found.kind, found.phase) == ("host-oom", "unknown")


def test_a_log_without_a_known_error_is_not_said_to_have_none():
    assert "no line of the log is one that is known as an error" in assessed("/bin/frob: cannot")[1].cause
