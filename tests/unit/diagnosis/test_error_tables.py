"""
The error strings of runtimes and libraries, as their own tables have them: each is read in every form in which an engine passes it on.

A table is documented and closed, so that a string that no report has had yet is read as well.
"""

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess
from pytest_longctx.diagnosis.log_file import read

CATALOGUES = catalogues()
ALL = every_catalogue()


def answer(text: str, engine: str = "vllm", exit_code: int = 1) -> Diagnosis | None:
    return assess(read([f"{text}\n".encode()], CATALOGUES.get(engine, ALL)), Evidence(exit_code=exit_code))[1]


def raised(exception: str, file: str = "vllm/v1/worker/gpu_worker.py", function: str = "init_device") -> str:
    frame = f'  File "/usr/local/lib/python3.12/dist-packages/{file}", line 7, in {function}'
    return f"Traceback (most recent call last):\n{frame}\n    f()\n{exception}"


CUDA = {
    "initialization error": "device",
    "driver shutting down": "device",
    "CUDA driver is a stub library": "device",
    "unknown error": "device",
    "no CUDA-capable device is detected": "device",
    "invalid device ordinal": "device",
    "system not yet initialized": "device",
    "operation not supported": "device",
    "MPS client failed to connect to the MPS control daemon or the MPS server": "device",
    "the remote procedural call between the MPS server and the MPS client failed": "device",
    "all CUDA-capable devices are busy or unavailable": "dirty-gpu",
    "exclusive-thread device already in use by a different thread": "dirty-gpu",
    "the provided PTX was compiled with an unsupported toolchain.": "driver-too-old",
    "CUDA driver version is insufficient for CUDA runtime version": "driver-too-old",
    "forward compatibility was attempted on non supported HW": "driver-too-old",
    "invalid device function": "wrong-build",
    "device kernel image is invalid": "wrong-build",
    "no kernel image is available for execution on the device": "wrong-build",
    "a PTX JIT compilation failed": "wrong-build",
    "named symbol not found": "wrong-build",
    "uncorrectable ECC error encountered": "gpu-hardware",
    "an illegal memory access was encountered": "gpu-fault",
    "an illegal instruction was encountered": "gpu-fault",
    "misaligned address": "gpu-fault",
    "invalid program counter": "gpu-fault",
    "unspecified launch failure": "gpu-fault",
    "the launch timed out and was terminated": "gpu-fault",
    "operation not supported on global/shared address space": "gpu-fault",
    "device-side assert triggered": "gpu-fault",
    "invalid resource handle": "gpu-fault",
    "context is destroyed": "gpu-fault",
    "too many resources requested for launch": "kernel-limit",
    "too many blocks in cooperative launch": "kernel-limit",
    "invalid configuration argument": "kernel-limit",
    "operation not permitted when stream is capturing": "compile",
    "operation failed due to a previous error during capture": "compile",
    "dependency created on uncaptured work in another stream": "compile",
    "operation would make the legacy stream depend on a capturing blocking stream": "compile",
}
"""What `cudaGetErrorString` returns."""
FORMS = (
    "RuntimeError: CUDA error: {}",
    "torch.AcceleratorError: CUDA error: {}",
    "RuntimeError: Triton Error [CUDA]: {}",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("said", "kind"), CUDA.items())
def test_an_error_of_cuda_is_read_in_every_form(said, kind, form):
    found = answer(raised(form.format(said)))
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(("said", "kind"), CUDA.items())
def test_an_error_of_cuda_is_read_in_native_code(said, kind):
    found = answer(f"CUDA error: {said}\n  current device: 0, in function f at ggml-cuda.cu:2", "llamacpp", 134)
    assert found is not None
    assert found.kind == kind


def test_a_refused_argument_of_the_runtime_says_nothing_of_its_cause():
    found = answer(raised("RuntimeError: CUDA error: invalid argument"))
    assert found is not None
    assert found.kind == "unknown"


NATIVE = [
    ("Memory critical error by agent node-0 (Agent handle: 0x1) on address 0x7f. Reason: Memory in use.", "gpu-fault"),
    ("Memory access fault by GPU node-1 (Agent handle: 0x1) on address 0x7f. Reason: Page not present.", "gpu-fault"),
    (":1:hip_fatbin.cpp :687 : 99 us:  No compatible code objects found for: gfx1103", "wrong-build"),
    ("ROCk module is NOT loaded, possibly no GPU devices", "device"),
    ("hipErrorNoDevice", "device"),
    ("Failed to initialize NVML: Unknown Error", "device"),
    ("bash: ./server: cannot execute binary file: Exec format error", "wrong-build"),
    ("gcc: fatal error: cannot execute 'cc1plus': execvp: No such file or directory", "toolchain-missing"),
    ("DeepEP timeout check failed: rank = 1, thread = 3, value = 0)", "collective-hang"),
    ("run.sh: line 9: --max-num-seqs: command not found", "bad-flag"),
]


@pytest.mark.parametrize(("line", "kind"), NATIVE)
def test_a_runtimes_own_line_without_a_level_is_read(line, kind):
    found = answer(line, "all")
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("0xc0000135", "environment"),
        ("0xc0000139", "environment"),
        ("3221225781", "environment"),
        ("0xc000001d", "wrong-build"),
        ("-1073741795", "wrong-build"),
        ("0xc0000005", "segfault"),
        ("3221225477", "segfault"),
    ],
)
def test_an_exit_status_of_windows_is_read_in_each_notation(status, kind):
    line = 'time=2026-01-02T03:04:05.678Z level=ERROR source=sched.go:443 msg="error loading llama server" error="{}"'
    found = answer(line.format(f"llama runner process has terminated: exit status {status}"), "llamacpp", 0)
    assert found is not None
    assert found.kind == kind


@pytest.mark.parametrize("status", ["0", "1", "2", "0xc0000409"])
def test_an_exit_status_that_says_no_more_names_no_cause(status):
    found = answer(f"llama runner process has terminated: exit status {status}", "llamacpp", 1)
    assert found is None or found.kind == "unknown"


NCCL = ("unhandled system error", "unhandled cuda error", "internal error", "invalid argument", "invalid usage")


@pytest.mark.parametrize("said", NCCL)
@pytest.mark.parametrize(
    "form",
    [
        "RuntimeError: NCCL error: {} (run with NCCL_DEBUG=WARN for details)",
        "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, {} (run with NCCL_DEBUG=WARN), NCCL version 2.21.5",
    ],
)
def test_a_rank_that_nccl_fails_is_a_failed_collective_and_likely_no_more(form, said):
    found = answer(raised(form.format(said), "vllm/distributed/device_communicators/pynccl_wrapper.py", "NCCL_CHECK"))
    assert found is not None
    assert (found.kind, found.confidence) == ("collective-failed", "likely")


def test_a_peer_that_is_gone_is_no_failed_collective():
    said = "remote process exited or there was a network error"
    found = answer(
        raised(f"torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp:268, {said}, NCCL version 2.21.5")
    )
    assert found is not None
    assert found.kind == "unknown"


EXCEPTIONS = [
    ("OSError: [Errno 8] Exec format error: '/opt/x'", "wrong-build"),
    ("OSError: [Errno 113] No route to host", "rank-unreachable"),
    ("OSError: [Errno 28] No space left on device: '/root/.cache/x'", "disk-full"),
    ("OSError: [Errno 122] Disk quota exceeded: '/home/x'", "disk-full"),
    ("OSError: [Errno 30] Read-only file system: '/root/.cache'", "permission"),
    ("OSError: [Errno 24] Too many open files", "process-limit"),
    ("OSError: [Errno 98] Address already in use", "port-taken"),
    ("botocore.exceptions.NoCredentialsError: Unable to locate credentials", "hub-denied"),
    (
        "botocore.exceptions.ClientError: An error occurred (NoSuchKey) when calling the GetObject operation",
        "model-missing",
    ),
    ('botocore.exceptions.EndpointConnectionError: Could not connect to the endpoint URL: "https://x/"', "hub-offline"),
    ("NotImplementedError: Could not run '_moe_C::topk' with arguments from the 'CPU' backend.", "wrong-build"),
    ("ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.", "host-oom"),
    ("ValueError: Insufficient devices for 2D mesh: found 4, expected 8", "device"),
    ("AttributeError: 'GemmaTokenizer' object has no attribute 'x'", "environment"),
    ("RuntimeError: size_n must divisible by BLOCK_SIZE_N", "config"),
    ("RuntimeError: FlashAttention forward only supports head dimension at most 256", "kernel-limit"),
]


@pytest.mark.parametrize(("exception", "kind"), EXCEPTIONS)
def test_an_exception_that_a_library_documents_is_read(exception, kind):
    found = answer(raised(exception))
    assert found is not None
    assert found.kind == kind


def test_a_child_that_its_parent_ended_was_not_stopped_from_outside():
    line = "ERROR 03-21 10:02:51 [multiproc_worker_utils.py:120] Worker VllmWorkerProcess pid 2107 died, exit code: -15"
    found = answer(line)
    assert found is not None
    assert found.kind == "unknown"


@pytest.mark.parametrize("said", [*CUDA, "Memory critical error by agent node-0", "exit status 0xc0000005"])
def test_a_string_of_a_table_in_a_request_is_quoted(said):
    log = [
        "INFO:     Application startup complete.",
        f"INFO 02-02 18:01:54 logger.py:37] Received request cmpl-1-0: prompt: 'CUDA error: {said}\\nRuntimeError: CUDA error: {said}', params: x",
        'INFO:     127.0.0.1:36030 - "POST /v1/completions HTTP/1.1" 200 OK',
    ]
    assert assess(read(["\n".join([*log, ""]).encode()], CATALOGUES["vllm"]), Evidence()) == ("healthy", None)
