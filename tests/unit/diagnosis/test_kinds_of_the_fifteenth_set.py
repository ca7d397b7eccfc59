"""The kinds of mistake that the fifteenth set showed, each in lines that no log of a set contains."""

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


LISTENS = "main: server is listening on http://0.0.0.0:9090 - starting the main loop"
UP = "INFO:     Application startup complete."


@pytest.mark.parametrize(
    "line", ["2.07.441.910 E ROCm error: invalid value", "Error: HIP error: invalid resource handle"]
)
def test_a_call_that_the_gpu_refused_counts_behind_a_level_of_any_form(line):
    found = answer(LISTENS, line, "Aborted", engine="llamacpp", code=-6)
    assert (found.kind, found.phase, found.signature) == ("gpu-fault", "request", "ggml-call-failed")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/src/ggml/src/ggml-metal/ggml-metal-ops.m:88: fatal error", "engine-assert"),
        ("/src/ggml/src/ggml-hip/common.cu:12: ROCm error", "unknown"),
    ],
)
def test_an_abort_of_ggml_without_words_is_a_failed_check_and_an_error_of_the_runtime_is_none(line, kind):
    assert answer(LISTENS, line, engine="llamacpp", code=-6).kind == kind


@pytest.mark.parametrize(
    ("exception", "path", "function", "kind", "signature"),
    [
        (
            "RuntimeError: Error in function 'launchTopK' at /w/csrc/topk/launchTopK.cu:31: Got CUDA error.",
            "flashinfer/topk.py",
            "topk",
            "gpu-fault",
            "kernel-library-failed",
        ),
        ("RuntimeError: This kernel is not supported!", "aiter/ops/moe.py", "moe_gemm", "wrong-build", "gemm-not-run"),
        (
            "RuntimeError: The process exits for this inner error, and the current working operator name is aclnnTopk.",
            "vllm_ascend/ops/sample.py",
            "sample",
            "gpu-fault",
            "ascend-operator-failed",
        ),
        (
            "RuntimeError: size_k = 1368 is not divisible by tile_k_size = 16",
            "vllm/_custom_ops.py",
            "awq_repack",
            "config",
            "weights-not-aligned",
        ),
        (
            "AttributeError: 'FooVLModel' object has no attribute 'decoder.embed_in'",
            "torch/nn/modules/module.py",
            "__getattr__",
            "model-unsupported",
            "model-class-without-part",
        ),
        (
            "ValueError: backend 'X' does not support the configuration since kernel does not support current device.",
            "vllm/model_executor/layers/fused_moe/oracle/mxfp4.py",
            "select",
            "device",
            "no-kernel-for-this-gpu",
        ),
    ],
)
def test_what_kernels_and_their_callers_refuse_has_a_class_of_its_words(exception, path, function, kind, signature):
    found = answer(*raised(exception, path, function))
    assert (found.kind, found.signature) == (kind, signature)


def test_what_a_backend_does_not_support_of_the_configuration_is_still_an_argument():
    said = "ValueError: MoE backend 'X' does not support the deployment configuration since it has no such activation."
    assert answer(*raised(said, "vllm/model_executor/layers/fused_moe/oracle/fp8.py", "select")).kind == "config"


def test_a_worker_whose_rank_stands_in_its_tag_has_a_traceback():
    found = parse("(VllmWorker DP1 TP3 pid=77) ERROR 01-02 03:04:05 [multiproc_executor.py:9]   x")
    assert (found.process, found.level, found.text) == ("VllmWorker DP1 TP3 pid=77", 40, "  x")


def test_an_attribute_that_a_package_has_not_is_found_in_a_request():
    said = "AttributeError: module 'flashinfer.norm' has no attribute 'fused_rms_x'"
    found = answer(
        UP,
        "ERROR 01-02 03:04:05 [core.py:9] EngineCore encountered a fatal error.",
        *raised(said, "vllm/a.py", "forward"),
    )
    assert (found.kind, found.signature, found.confidence) == ("environment", "package-without-attribute", "likely")
    own = said.replace("flashinfer.norm", "vllm.norm")
    found = answer(
        UP,
        "ERROR 01-02 03:04:05 [core.py:9] EngineCore encountered a fatal error.",
        *raised(own, "vllm/a.py", "forward"),
    )
    assert found.kind == "engine-assert"


@pytest.mark.parametrize(
    ("symbol", "signature"),
    [("_Z11top_k_x_fp4RN2at6TensorES1_", "engine-built-without-kernel"), ("_ZN5torch3jit4foo", "environment")],
)
def test_a_kernel_that_the_engines_library_lacks_is_no_matter_of_other_packages(symbol, signature):
    found = answer(f"ImportError: /opt/vllm/vllm/_moe_C.abi3.so: undefined symbol: {symbol}")
    assert (found.kind, found.signature) == ("environment", signature)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Don't know what to do with 'Studio/VC/bin'", "compile"),
        ("redefinition of argument 'std'", "compile"),
        ("Cannot find compiler 'cl.exe' in PATH", "toolchain-missing"),
    ],
)
def test_a_compiler_that_was_called_wrongly_is_not_missing(said, kind):
    assert answer("RuntimeError: Ninja build failed. Ninja output:", f"nvcc fatal   : {said}").kind == kind


def test_a_backend_that_tritons_image_lacks_is_named():
    line = "failed to load 'bls' version 1: Invalid argument: unable to find 'libtriton_python.so' for model 'bls', searched: /b"
    found = answer(
        f"E0102 03:04:05.123456 1 model_lifecycle.cc:1] {line}",
        "error: creating server: Internal - failed to load all models",
        engine="trtllm",
    )
    assert (found.kind, found.signature) == ("environment", "backend-of-triton-missing")


def test_memory_that_ran_out_in_the_loader_of_tensorrt_llm_is_that_of_the_weights():
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB."
    found = answer(*raised(said, "tensorrt_llm/_torch/pyexecutor/model_loader.py", "load"), engine="trtllm")
    assert (found.kind, found.phase) == ("gpu-oom-weights", "load")


OPCODE = "Jan  2 03:04:05 h kernel: traps: python3[99] trap invalid opcode ip:1 sp:2 error:0 in kernels.so[3+4]"


def test_the_kernels_line_on_an_invalid_opcode_is_the_cause_in_the_phase_of_the_server():
    found = answer(
        "2024-01-02T03:04:05.000000Z  INFO text_generation_router: router/src/main.rs:1: Warming up model",
        OPCODE,
        "2024-01-02T03:04:06.000000Z ERROR text_generation_launcher: Webserver Crashed",
        engine="tgi",
    )
    assert (found.kind, found.phase, found.signature) == ("wrong-build", "profile", "kernel-invalid-opcode")


def test_an_invalid_opcode_of_another_program_is_none_of_a_server_that_serves():
    assert states(UP, OPCODE) == ("healthy", None)


def test_a_server_whose_application_lacks_a_part_fails_by_its_own_code():
    said = "AttributeError: 'State' object has no attribute 'renderer'"
    refused = 'INFO:     1.2.3.4:5 - "POST /generate HTTP/1.1" 500 Internal Server Error'
    lines = UP, refused, "ERROR:    Exception in ASGI application", *raised(said, "starlette/datastructures.py", "f")
    state, found = states(*lines, refused)
    assert (state, found.kind, found.signature) == ("impaired", "engine-assert", "application-state-not-set")


STEP = raised("ValueError: no slot is left", "tensorrt_llm/_torch/pyexecutor/slots.py", "prepare_resources")
PROBED = 'INFO:     1.2.3.4:5 - "GET /health HTTP/1.1" 200 OK'
ANSWERED = 'INFO:     1.2.3.4:5 - "POST /v1/completions HTTP/1.1" 200 OK'


def test_a_step_that_failed_and_after_which_only_probes_are_answered_is_a_failure():
    state, found = states(UP, ANSWERED, *STEP, PROBED, PROBED, PROBED, PROBED, engine="trtllm")
    assert (state, found.kind, found.phase, found.confidence) == ("impaired", "engine-assert", "request", "likely")
    assert "no slot is left" in found.cause


def test_a_step_that_failed_is_none_in_a_server_that_works_on():
    assert states(UP, *STEP, ANSWERED, PROBED, engine="trtllm") == ("healthy", None)


def test_a_device_whose_work_the_driver_gave_up_wants_another_driver():
    found = answer("RuntimeError: queue submit failed: PI_ERROR_DEVICE_LOST", engine="sglang")
    assert (found.kind, found.signature) == ("gpu-fault", "device-lost")
    assert "driver" in found.remedy


def test_a_device_that_is_lost_while_the_weights_are_loaded_is_lost_then():
    lines = (
        "load_tensors: offloaded 9/9 layers to GPU",
        "level_zero backend failed with error: 20 [UR_RESULT_ERROR_UNKNOWN]",
    )
    assert answer(*lines, engine="llamacpp").phase == "load"
