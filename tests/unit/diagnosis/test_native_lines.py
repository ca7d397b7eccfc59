"""Lines of compilers, loaders, runtimes and native code, which have no level, and what only repeats them."""

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read

KNOWN = {**catalogues(), "": every_catalogue()}


def answer(engine, *lines, code=1):
    state, found = assess(read(["\n".join([*lines, ""]).encode()], KNOWN[engine]), Evidence(exit_code=code))
    return state, found


CAUSES = [
    ("sglang", "toolchain-missing", "/x/flashinfer/utils.cuh:21:10: fatal error: cuda_fp8.h: 没有那个文件或目录"),
    ("vllm", "toolchain-missing", "kernel.cpp:3:10: fatal error: 'omp.h' file not found"),
    ("vllm", "wrong-build", "[3f2a9c1b7d40:1] FATAL: UCX library was compiled with avx but CPU does not support it."),
    ("vllm", "wrong-build", "RuntimeError: NumPy was built with baseline optimizations: (X86_V2) but your machine doesn't support: (X86_V2)."),
    ("llamacpp", "wrong-build", "2023/10/15 13:23:35 llama.go:384: llama runner stopped with error: signal: illegal instruction (core dumped)"),
    ("llamacpp", "segfault", "llama runner process has terminated: signal: segmentation fault (core dumped)"),
    ("vllm", "gpu-fault", "/src/skinny_gemms.hip:497: void f(int) [N = 2]: Device-side assertion `false' failed."),
    ("sglang", "gpu-fault", "Exception: Failed to encode tensor map: 700"),
    ("trtllm", "environment", "UNAVAILABLE: Not found: unable to load shared library: /x/libtriton_tensorrtllm.so: undefined symbol: _ZNK12x"),
    ("vllm", "environment", "python3: symbol lookup error: /x/_C.abi3.so: undefined symbol: _ZN3c10"),
    ("llamacpp", "environment", "llama-server: error while loading shared libraries: libggml-cuda.so: cannot open shared object file: No such file or directory"),
    ("trtllm", "gpu-oom", "[TensorRT-LLM][ERROR] 1: [defaultAllocator.cpp::allocate::20] Error Code 1: Cuda Runtime (out of memory)"),
    ("trtllm", "gpu-oom", "[TRT] [E] 2: [virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory (no further information)"),
    ("llamacpp", "structured-output", "  what():  Unexpected empty grammar stack after accepting piece: } (92)"),
    ("llamacpp", "checkpoint-mismatch", "gguf_init_from_file: invalid magic number 67676a74"),
    ("llamacpp", "checkpoint-mismatch", "gguf_init_from_file_impl: invalid magic characters: 'tjgg', expected 'GGUF'"),
    ("vllm-neuron", "driver-too-old", "2024-Jan-18 01:49:40.972604 39717:39898 ERROR  NEFF:neff_parse     NEFF version: 2.0, features: 0x100 are not supported.  Currently supporting: 0x80000000000000ff"),
]  # fmt: skip


@pytest.mark.parametrize(("engine", "kind", "line"), CAUSES)
def test_a_line_without_a_level_names_the_cause(engine, kind, line):
    for name in (engine, ""):
        state, found = answer(name, line)
        assert (state, found.kind) == ("failed", kind)


QUIET = [
    "WARNING 10-26 16:13:52 [ops.py:19] Failed to import: /x/_C.abi3.so: undefined symbol: _ZN3c10",
    "ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded (cannot open shared object file): ignored.",
    "INFO 10-26 16:13:52 [ucx.py:19] the UCX library was compiled with avx but CPU does not support it",
    "gguf: the magic characters are 'GGUF'",
    "[TensorRT-LLM][WARNING] Requested amount of GPU memory (46851162112 bytes) could not be allocated. There may not be enough free memory for allocation to succeed.",
]


@pytest.mark.parametrize("line", QUIET)
def test_a_line_like_it_that_is_survived_names_none(line):
    state, found = answer("", line, code=None)
    assert found is None or found.kind == "unknown"
    assert state != "failed"


PANIC = "2024-04-18T18:45:20.310-04:00   thread 'tokio-runtime-worker' panicked at router/src/infer.rs:598:14:"
CRASHED = "2024-04-18T22:45:20.401121Z ERROR text_generation_launcher: Webserver Crashed"


def test_the_message_of_a_panic_is_its_next_line():
    _, found = answer("tgi", PANIC, "2024-04-18T18:45:20.310-04:00   ID not found in entries. This is a bug.", CRASHED)
    assert found.kind == "unknown"
    assert found.cause.endswith("panicked at router/src/infer.rs:598:14: ID not found in entries. This is a bug.")


def test_a_panic_whose_message_is_cut_off_is_still_the_first_error():
    assert answer("tgi", PANIC)[1].cause.endswith("panicked at router/src/infer.rs:598:14:")


def test_the_cause_in_a_panics_message_is_found():
    _, found = answer("tgi", "thread 'main' panicked at src/main.rs:7:3:", "Address already in use (os error 98)")
    assert found.kind == "port-taken"


def test_a_thread_beside_the_main_one_may_panic_and_the_server_goes_on():
    ready = "2024-04-18T22:44:38.272141Z  INFO text_generation_router: router/src/main.rs:354: Connected"
    reading = read([f"{ready}\n{PANIC}\nx\n".encode()], KNOWN["tgi"])
    assert not reading.fatal
    assert assess(reading, Evidence())[0] == "healthy"


ALLOCATOR = (
    "thread 'main' panicked at 'Unable to warmup model: Generation(\"Allocation on device 0 would exceed allowed memory. "
    r"(out of memory)\nCurrently allocated     : 16.08 GiB\nRequested               : 4.83 GiB\nDevice limit            : "
    r"22.20 GiB\nFree (according to CUDA): 11.12 MiB"
    "\")', router/src/main.rs:216:18"
)


def test_what_a_panic_quotes_of_the_allocator_is_a_statement_with_sizes():
    warm = "2023-07-07T17:55:38.660142Z  INFO text_generation_router: router/src/main.rs:210: Warming up model"
    _, found = answer("tgi", warm, ALLOCATOR)
    assert found.kind == "gpu-oom-profile"
    assert found.sizes == {"allocation_gib": 4.83, "device_gib": 22.2}


def test_a_row_of_tritons_table_is_read_with_its_next_one():
    _, found = answer(
        "trtllm",
        "| Model          | Version | Status                                            |",
        "| tensorrt_llm   | 1       | UNAVAILABLE: Internal: unexpected error when creating modelInstanceState: [TensorRT-LLM][ERROR] Assertion failed:  |",
        "|                |         | mpiSize == tp * pp (/app/tensorrt_llm/cpp/tensorrt_llm/runtime/worldConfig.cpp:80)  |",
    )
    assert (found.kind, found.signature) == ("config", "mpi-ranks")


def test_the_echo_of_a_failed_load_is_not_the_first_error():
    _, found = answer(
        "trtllm", "x.cpp(12): error: it went wrong", "error: creating server: Internal - failed to load all models"
    )
    assert found.cause.endswith("x.cpp(12): error: it went wrong")


def test_an_exception_under_an_indentation_ends_its_traceback():
    state, found = answer(
        "trtllm",
        'E0728 17:26:10.112496 154 model.py:106] "Traceback (most recent call last):',
        '   File \\"/x/1/model.py\\", line 94, in execute',
        "   for res in res_gen:",
        "                     c_python_backend_utils.TritonModelException: [TensorRT-LLM][ERROR] Assertion failed: mNextBlocks.empty() (kvCacheManager.cpp:219)",
        code=None,
    )
    assert (state, found.kind) == ("failed", "engine-assert")
    assert "mNextBlocks.empty()" in found.cause


def test_a_line_that_reports_an_end_and_quotes_the_cause_names_it():
    line = 'E0625 06:12:20.148931 1 backend_model.cc:691] "ERROR: Failed to create instance: unexpected error when creating modelInstanceState: [TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine. (tllmRuntime.cpp:77)'
    assert answer("trtllm", line)[1].signature == "engine-file-mismatch"
