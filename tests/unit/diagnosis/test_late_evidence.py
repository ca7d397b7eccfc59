"""Evidence that stands beside an engine's own lines: the kernel's, a signal's, native code's, another server's records."""

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, assess, diagnose
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.records import parse

CATALOGUES = catalogues()
TIME_OUT = "(EngineCore pid=7) ERROR 11-20 10:00:00 [core.py:9] TimeoutError: RPC call to execute_model timed out."
XID = "NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
BANNER = "/entrypoint.sh: line 3:    17 {}               (core dumped) python3 -m vllm.entrypoints.openai.api_server"
CONFIG = """\
Traceback (most recent call last):
  File "/x/vllm/{frame}", line 9, in {function}
    raise ValueError(
ValueError: The tokens of one item (16384) are more than one step takes (8192).
"""
LOADING = """\
Traceback (most recent call last):
  File "/x/vllm/model_executor/models/{function}.py", line 371, in {function}
    param = params_dict[name]
{error}
"""
DRAFT = """\
[2026-08-01 10:00:00] Scheduler hit an exception: Traceback (most recent call last):
  File "/x/sglang/srt/{file}", line 9, in __init__
    self.init_memory_pool()
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: mem_fraction_static=0.9
"""


def of(name: str, text: str) -> LogReader:
    return read([text.encode()], CATALOGUES.get(name) or every_catalogue())


def found(name: str, text: str, exit_code: int | None = None) -> Diagnosis:
    return diagnose(of(name, text), Evidence(exit_code))


@pytest.mark.parametrize(
    "prefix", ["", "[ 1234.567890] ", "Nov 20 10:00:03 node-7 kernel: ", "[Fri Nov 20 10:00:03 2026] "]
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_kernels_word_on_the_hardware_comes_before_a_time_out(prefix, order):
    told = found("vllm", "\n".join([TIME_OUT, prefix + XID][::order]) + "\n")
    assert (told.kind, told.signature, told.confidence) == ("gpu-hardware", "kernel-hardware", "certain")


def test_a_fault_of_the_kernels_log_is_none_of_a_server_that_is_well():
    text = f'{XID}\nINFO:     Application startup complete.\nINFO: 127.0.0.1 - "POST /v1/completions HTTP/1.1" 200 OK\n'
    assert assess(of("vllm", text), Evidence()) == ("healthy", None)


@pytest.mark.parametrize(("number", "name"), [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (11, "SIGSEGV")])
def test_a_bare_signal_is_no_cause(number, name):
    told = found("vllm", "Starting to load model /m\n", exit_code=128 + number)
    assert (told.kind, told.confidence) == ("unknown", "unknown")
    assert told.cause == f"unknown: ended by {name}, no cause in the log"


@pytest.mark.parametrize(("words", "name"), [("Bus error", "SIGBUS"), ("Aborted", "SIGABRT"), ("Killed", "SIGKILL")])
def test_a_shells_banner_is_quoted(words, name):
    line = BANNER.format(words)
    told = found("vllm", f"Starting to load model /m\n{line}\n")
    assert (told.kind, told.confidence) == ("unknown", "unknown")
    assert told.cause == f"unknown: ended by {name}, here is the first error: {line}"


def test_a_shells_banner_of_an_illegal_instruction_is_a_class():
    assert found("vllm", BANNER.format("Illegal instruction")).kind == "wrong-build"


@pytest.mark.parametrize(
    "line",
    [
        "  what():  Invalid handle. Cannot load symbol cublasLtCreate",
        "thread 'main' panicked at src/queue.rs:7:5:",
    ],
)
def test_an_exception_of_native_code_is_the_first_error(line):
    told = found("vllm", f"Starting to load model /m\n{line}\n", exit_code=134)
    assert (told.kind, told.cause) == ("unknown", f"unknown: ended by SIGABRT, here is the first error: {line.strip()}")


def test_an_assertion_of_native_code_is_a_failed_check():
    line = "python3: /src/engine.cpp:414: void step(): Assertion `n_tokens <= n_batch' failed."
    told = found("vllm", f"Starting to load model /m\n{line}\n", exit_code=134)
    assert (told.kind, told.cause, told.confidence) == ("engine-assert", line, "likely")


def test_what_an_exception_of_native_code_says_is_a_cause_where_it_is_known():
    text = "terminate called after throwing an instance of 'c10::Error'\n  what():  CUDA error: an illegal memory access was encountered\n"
    assert found("vllm", text).kind == "gpu-fault"


@pytest.mark.parametrize(
    ("frame", "function", "kind"),
    [("config/scheduler.py", "__post_init__", "config"), ("v1/core/sched/scheduler.py", "schedule", "unknown")],
)
def test_an_exception_is_of_the_configuration_where_its_frames_are(frame, function, kind):
    assert found("vllm", CONFIG.format(frame=frame, function=function)).kind == kind


@pytest.mark.parametrize(
    ("function", "error", "kind"),
    [
        ("load_weights", "KeyError: 'scale_of_x'", "checkpoint-mismatch"),
        ("load_weights", "AssertionError", "checkpoint-mismatch"),
        ("schedule", "KeyError: 'scale_of_x'", "unknown"),
        ("schedule", "KeyError: 'layers.0.mlp.down_proj.weight_scale'", "checkpoint-mismatch"),
    ],
)
def test_an_exception_is_of_the_weights_where_its_frames_are(function, error, kind):
    told = found("vllm", LOADING.format(function=function, error=error))
    assert told.kind == kind
    assert kind == "unknown" or told.phase == "load"


@pytest.mark.parametrize(
    ("file", "share"), [("speculative/eagle_worker_v2.py", "a smaller"), ("model_executor/model_runner.py", "a larger")]
)
def test_a_larger_share_is_no_remedy_where_a_draft_model_needs_the_rest(file, share):
    told = found("sglang", DRAFT.format(file=file))
    assert (told.kind, told.remedy.startswith(f"{share} --mem-fraction-static")) == ("kv-cache-too-small", True)


def test_a_notice_before_it_changes_what_to_do():
    line = "ValueError: To serve at least one request with the model's max seq len (131072), (16.00 GiB KV cache is needed, which is larger than the available KV cache memory (8.00 GiB).\n"
    notice = "WARNING 05-06 09:10:02 [vllm.py:897] Turning off hybrid kv cache manager because `--kv-transfer-config` is set.\n"
    assert "hybrid" not in found("vllm", line).remedy
    assert "hybrid KV cache manager" in found("vllm", notice + line).remedy


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vllm", "ValueError: Connector OffloadingConnector does not support HMA but HMA is enabled.\n"),
        (
            "vllm",
            (
                "INFO 05-06 09:10:02 [factory.py:64] Creating v1 connector with name: OffloadingConnector and engine_id: 3f\n"
                "ValueError: Hybrid KV cache manager is disabled but failed to convert the KV cache specs to one unified type.\n"
            ),
        ),
    ],
)
def test_the_offloading_that_failed_is_no_remedy(name, text):
    told = found(name, text)
    assert told.kind == "connector-hybrid"
    assert "leave out --kv-offloading-size" in told.remedy


def test_a_log_that_begins_in_a_server_at_work_has_its_phase_from_the_traffic():
    line = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered\n"
    access = 'INFO:     127.0.0.1:3 - "POST /v1/completions HTTP/1.1" 200 OK\n'
    assert (found("vllm", line).phase, found("vllm", access + line).phase) == ("unknown", "request")


def test_an_engine_whose_loading_thread_died_is_not_well_although_it_listens():
    text = (
        "Exception in thread Thread-139 (_create_weight_func):\nTraceback (most recent call last):\n"
        '  File "/x/lmdeploy/turbomind/turbomind.py", line 170, in _create_weight_func\n    create()\n'
        "RuntimeError: [TM][ERROR] CUDA runtime error: out of memory /lmdeploy/x.cu:32\n"
        "INFO:     Uvicorn running on http://0.0.0.0:23333 (Press CTRL+C to quit)\n"
    )
    state, told = assess(of("lmdeploy", text), Evidence())
    assert (state, told and told.kind) == ("failed", "gpu-oom-weights")


def test_the_sizes_of_an_allocation_are_those_of_the_allocator_just_before_it():
    text = (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 40960.00 MiB on device 0: cudaMalloc failed: out of memory\n"
        "llama_kv_cache_init: failed to allocate buffer for kv cache\n"
    )
    told = found("llamacpp", text)
    assert (told.kind, told.sizes) == ("kv-cache-too-small", {"allocation_gib": 40.0})


def test_a_table_of_sizes_under_a_failure_is_read_to_its_end():
    text = (
        "RuntimeError: Executor creation failed due to insufficient GPU memory.\n\n"
        "The following component could not be created: Initial KV Cache (temporary for KV cache size estimation)\n"
        "Total GPU memory (GiB): 139.80\nFree GPU memory before component creation attempt (GiB): 12.25\n"
    )
    told = found("trtllm", text)
    assert (told.kind, told.sizes) == ("kv-cache-too-small", {"device_gib": 139.8, "device_free_gib": 12.25})


def test_the_old_words_of_the_allocator_have_the_same_sizes():
    text = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.69 GiB total capacity; 21.84 GiB already allocated; 1.57 GiB free; 22.00 GiB reserved in total by PyTorch)\n"
    assert found("vllm", text).sizes == {"allocation_gib": 2.0, "device_gib": 23.69, "device_free_gib": 1.57}


@pytest.mark.parametrize(
    "line",
    [
        "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use",
        "start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8000",
        "docker: Error response from daemon: Bind for 0.0.0.0:8000 failed: port is already allocated",
        "ValueError: dist_init_port at 8000 is not available in 30 seconds.",
    ],
)
def test_the_port_is_told(line):
    assert found("vllm", line + "\n").sizes == {"port": 8000.0}


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('E0705 10:41:02.123456 137 backend_model.cc:692] "ERROR: Failed to create instance: x"', "Failed to create instance: x"),
        ('time=2026-01-01T00:00:00Z level=ERROR source=sched.go:456 msg="error loading llama server" error="llama runner process has terminated: CUDA error"', "error loading llama server: llama runner process has terminated: CUDA error"),
        ('time=2026-01-01T00:00:00Z level=INFO source=sched.go:1 msg="loaded runners" count=1', 'loaded runners" count=1'),
    ],
)  # fmt: skip
def test_a_message_in_quotation_marks_is_the_servers_own(line, text):
    assert parse(line).text == text
