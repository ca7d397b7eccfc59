"""The kinds of mistake that the fourteenth set showed, each in lines that no log of a set contains."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.parsing.records import parse


def states(*lines, engine="vllm", code=None):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()[engine]), Evidence(exit_code=code))


def answer(*lines, engine="vllm", code=1):
    return states(*lines, engine=engine, code=code)[1]


def raised(exception, path, function):
    return "Traceback (most recent call last):", f'  File "/x/{path}", line 7, in {function}', "    f(x)", exception


@pytest.mark.parametrize(
    ("exception", "path", "function"),
    [
        ("ValueError: the page table must be contiguous", "vllm/v1/attention/ops/paged.py", "launch"),
        ("ValueError: `beta` must have shape (4, 8), got (4, 9)", "vllm/third_party/fla/chunk.py", "chunk_fwd"),
        ("RuntimeError: seqused_k must be equal to seqlen_k", "sgl_kernel/flash_attn.py", "flash_attn_varlen_func"),
        ("RuntimeError: numel mismatch: 7 and 9", "vllm/v1/worker/gpu_model_runner.py", "execute_model"),
    ],
)
def test_what_the_check_of_an_operation_says_of_its_tensors_is_a_failed_check(exception, path, function):
    found = answer(*raised(exception, path, function))
    assert (found.kind, found.confidence) == ("engine-assert", "likely")
    assert exception in found.cause


@pytest.mark.parametrize(
    "exception",
    [
        "ValueError: this kernel requires a GPU of SM90 for tensors of rank 3",
        "ValueError: --block-size must match the shape of the table",
        "ValueError: fp8 tensors are not supported here, expected bf16",
    ],
)
def test_a_refusal_that_names_a_setting_or_a_device_is_no_failed_check(exception):
    assert answer(*raised(exception, "vllm/v1/attention/ops/paged.py", "launch")).kind != "engine-assert"


@pytest.mark.parametrize(
    "said", ["basic_string::_M_create", "map::at", "std::bad_variant_access", "deque::_M_range_check: x"]
)
def test_an_exception_of_the_standard_library_of_c_plus_plus_is_a_mistake_of_native_code(said):
    found = answer(
        *raised(f"IndexError: {said}", "tensorrt_llm/_torch/pyexecutor/sampler.py", "sample"), engine="trtllm"
    )
    assert found.kind == "engine-assert"


def test_memory_that_native_code_could_not_have_is_no_such_mistake():
    found = answer(
        *raised("RuntimeError: std::bad_alloc", "tensorrt_llm/_torch/pyexecutor/sampler.py", "sample"), engine="trtllm"
    )
    assert found.kind != "engine-assert"


STEP = "[04/18/2026-12:59:30] [TRT-LLM] [RANK 0] [I] iter = {}, global_rank = 0, rank = 0, num_scheduled_requests: 4"


def test_the_end_of_the_loop_of_tensorrt_llm_is_the_end_of_a_server_that_served():
    state, found = states(
        STEP.format(4096), "[04/18/2026-12:59:31] [TRT-LLM] [RANK 0] [E] Error in event loop: stop", engine="trtllm"
    )
    assert (state, found.kind) == ("failed", "unknown")
    assert states(STEP.format(4096), engine="trtllm")[0] == "healthy"
    assert states(STEP.format(7), engine="trtllm")[0] == "unfinished"


@pytest.mark.parametrize("package", ["NIXL", "Mooncake", "vllm._flashmla_C", "DeepGEMM"])
def test_a_package_that_the_engine_says_it_has_not_is_none_of_the_transfer(package):
    line = f"RuntimeError: {package} is not available"
    found = answer(*raised(line, "vllm/distributed/kv_transfer/kv_connector/v1/x.py", "__init__"))
    assert found.kind == "environment"


def test_another_engines_package_is_not_the_engine():
    line = "ModuleNotFoundError: No module named '{}'"
    assert answer(*raised(line.format("vllm"), "sglang/srt/layers/x.py", "f"), engine="sglang").kind == "environment"
    assert answer(*raised(line.format("sglang"), "run.py", "<module>"), engine="sglang").kind == "engine-missing"


def test_an_eviction_says_what_the_node_had_too_little_of():
    line = "Warning  Evicted  2m  kubelet  The node was low on resource: {}. Container llm was using 5Ki, which exceeds its request of 0."
    assert answer(line.format("ephemeral-storage"), code=137).kind == "disk-full"
    assert answer(line.format("memory"), code=137).kind == "host-oom"
    assert answer("Warning  Evicted  2m  kubelet  Pod was evicted", code=137).kind == "killed"


SERVES = '[2026-08-03 02:10:40] INFO:     10.0.0.40:51220 - "GET /health HTTP/1.1" 200 OK'


def test_a_thread_of_the_transfer_that_ended_is_missed_by_a_server_that_answers_probes():
    thread = "Exception in thread Thread-4 (decode_thread):"
    error = raised("RuntimeError: the rooms differ", "sglang/srt/disaggregation/x.py", "decode_thread")
    state, found = states(thread, *error, SERVES, engine="sglang")
    assert (state, found.kind) == ("impaired", "kv-transfer")
    assert "the rooms differ" in found.cause
    beside = "Exception in thread Thread-4 (_report_usage_worker):"
    assert states(beside, *error, SERVES, engine="sglang") == ("healthy", None)


def test_a_replica_that_no_node_takes_is_told_after_the_third_notice():
    line = (
        "WARNING 2026-03-24 03:16:59,311 controller 9 -- Deployment 'x' in application 'y' 1 replicas that have taken more than "
        '30s to be scheduled. Resources required for each replica: {"GPU": 1.0}, total resources available: {}. Use `ray status`.'
    )
    assert states(*[line] * 2)[1] is None
    assert states(*[line] * 3)[1].kind == "cluster-resources"
    assert states(*[line.replace("available: {}", 'available: {"GPU": 1.0}')] * 3)[1] is None


def test_the_exception_of_a_request_names_the_cause_where_no_request_is_answered():
    up, failed = (
        "INFO:     Application startup complete.",
        'INFO:     10.0.0.1:9 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error',
    )
    known = raised("ValueError: Tokenizer class Xyz does not exist or is not currently imported.", "app.py", "f")
    state, found = states(up, failed, "ERROR:    Exception in ASGI application", *known)
    assert (state, found.kind, found.confidence) == ("impaired", "environment", "likely")
    assert "goes on" in found.doubt
    assert (
        states(up, failed, "ERROR:    Exception in ASGI application", *raised("ValueError: x", "app.py", "f"))[1].kind
        == "unknown"
    )


@pytest.mark.parametrize(
    ("line", "text", "level"),
    [
        (
            "[05/05/25 16:31:02] INFO     OSError: [Errno 98] x                    local_server.py:108",
            "OSError: [Errno 98] x",
            None,
        ),
        ("                    INFO     INFO 05-05 16:31:09 [x.py:9] up          local_server.py:108", "up", 20),
        ("DEBUG:    LLAMA SERVER GPU: clip_init: failed", "clip_init: failed", None),
    ],
)
def test_a_program_that_prints_the_lines_of_another_is_taken_off(line, text, level):
    found = parse(line)
    assert (found.text, found.level) == (text, level)


def test_a_crash_after_the_gpu_could_not_be_initialised_leads_to_the_driver():
    crash = "Segmentation fault (core dumped)"
    before = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"
    assert "driver" in answer(before, crash, engine="llamacpp", code=139).remedy
    assert "driver" not in answer(crash, engine="llamacpp", code=139).remedy


@pytest.mark.parametrize(
    "said", ["AI Core execution failed.", "Vector core execution timed out.", "AICPU execution timeout."]
)
def test_a_device_that_did_not_finish_a_task_is_a_fault_though_the_line_is_a_warning(said):
    assert answer(f"[Error]: {said} ").kind == "gpu-fault"
