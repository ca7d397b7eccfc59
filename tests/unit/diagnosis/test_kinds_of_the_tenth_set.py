"""What the rules did not say rightly of the tenth set, by kind; no line here is from a log of the labelled sets."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Diagnosis, Evidence, State, assess
from pytest_longctx.diagnosis.log_file import read

CATALOGUES = catalogues()
CORE = "(EngineCore pid=7) ERROR 02-03 10:00:01 [core.py:9] "
API = "(APIServer pid=5) "
UP = f"{API}INFO:     Application startup complete."
HANDLER = f"{API}ERROR 02-03 10:00:02 [async_llm.py:480] "


def state(*lines: str, engine: str = "vllm", exit_code: int | None = 1) -> tuple[State, Diagnosis | None]:
    log = "\n".join([*lines, ""]).encode()
    return assess(read([log], CATALOGUES[engine]), Evidence(exit_code=exit_code))


def kind(*lines: str, engine: str = "vllm", exit_code: int | None = 1) -> str:
    found = state(*lines, engine=engine, exit_code=exit_code)[1]
    assert found is not None
    return found.kind


def raised(place: str, exception: str) -> list[str]:
    file, _, function = place.partition(":")
    return [
        "Traceback (most recent call last):",
        f'  File "/usr/lib/python3/site-packages/{file}", line 7, in {function}',
        "    f()",
        exception,
    ]


@pytest.mark.parametrize(
    "line",
    [
        "        The error from device(chipId:2, dieId:0), serial number is 7, there is an aivec error exception, core id is 4",
        "        The error from device(chipId:2, dieId:0), serial number is 7, there is an exception of aicpu error, core id is 4",
        "[ERROR] 2026-01-02-03:04:05 (PID:9) NPU function error: aclrtSynchronizeStream(s), error code is 507016",
        "RuntimeError: ACL event query failed, error code:507034",
    ],
)
def test_a_task_that_an_npu_did_not_finish_is_a_fault_of_the_device(line):
    assert kind(UP, line) == "gpu-fault"


def test_a_number_that_is_no_fault_of_a_task_is_none():
    assert kind(UP, f"{CORE}RuntimeError: NPU function error: aclrtFree, error code is 107002") != "gpu-fault"


def test_an_npu_that_is_not_initialised_is_a_matter_of_the_device():
    error = "RuntimeError: Initialize:x.cpp:3 NPU function error: aclrtGetRunMode(&mode), error code is 507033"
    assert kind(*raised("torch_npu/npu/__init__.py:_lazy_init", error)) == "device"
    assert kind(*raised("torch_npu/npu/__init__.py:_lazy_init", error.replace("507033", "207001"))) != "device"
    assert kind(UP, *raised("torch_npu/npu/__init__.py:_lazy_init", error)) != "device"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("mistral_common/x.py:download", "OSError: Make sure that an official tokenizer is present in ['a.txt']"),
        ("vllm/x.py:find", "OSError: Found 2 files matching the pattern: `^token.*v\\d$`."),
        ("sglang/x.py:find", "ValueError: Could not find a fast tokenizer in /models/m"),
        ("vllm/x.py:find", "FileNotFoundError: tekken.json could not be found in /models/m"),
        ("vllm/transformers_utils/tokenizers/x.py:find", "ValueError: it has two revisions"),
    ],
)
def test_a_tokenizer_that_the_files_lack_is_missing(place, error):
    assert kind(*raised(place, error)) == "tokenizer-missing"


@pytest.mark.parametrize("line", ["vocab.json not found", "config.json not found", "tokenizer.model is not found"])
def test_a_file_that_a_program_only_says_it_did_not_find_is_no_cause(line):
    said = state(f"{line}, going on without", *raised("vllm/x.py:run", "ValueError: it went wrong"))[1]
    assert said is not None
    assert (said.kind, "it went wrong" in said.cause) == ("unknown", True)


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: Could not find config.json in /models/m",
        "ValueError: neither a params.json nor another configuration",
        "FileNotFoundError: /models/m/config.json was not found",
        "ValueError: No supported configuration file found in /models/m",
    ],
)
def test_a_folder_without_a_configuration_is_no_model(error):
    assert kind(*raised("vllm/config/model.py:create_model_config", error)) == "model-missing"


def test_a_file_that_a_model_may_lack_is_no_missing_model():
    error = "ValueError: generation_config.json not found in /models/m"
    assert kind(*raised("vllm/x.py:load", error)) != "model-missing"


@pytest.mark.parametrize(
    ("engine", "place"),
    [
        ("vllm", "lmcache/v1/storage.py:lookup"),
        ("vllm", "vllm/distributed/kv_transfer/kv_connector/v1/x.py:start"),
        ("sglang", "sglang/srt/mem_cache/x.py:store_with_lmcache"),
    ],
)
def test_what_a_connectors_code_raises_is_of_the_connector(engine, place):
    found = state(UP, *raised(place, "ValueError: the pages of the prefix are gone"), engine=engine)[1]
    assert found is not None
    assert (found.kind, found.confidence) == ("kv-transfer", "likely")
    assert kind(UP, *raised(place, "ValueError: the backend must be set"), engine=engine) != "kv-transfer"
    assert (
        kind(UP, *raised("vllm/x.py:g", "ValueError: the pages of the prefix are gone"), engine=engine) != "kv-transfer"
    )


TASK = f'{HANDLER}  File "/x/vllm/v1/engine/output_processor.py", line 3, in add'


def test_a_front_end_whose_task_of_answers_ended_is_not_healthy():
    answered = f'{API}INFO:     192.0.2.3:4 - "POST /v1/embeddings HTTP/1.1" 200 OK'
    assert state(UP, answered, exit_code=None)[0] == "healthy"
    assert state(UP, answered, f"{HANDLER}AsyncLLM output_handler failed.", exit_code=None)[0] == "failed"


@pytest.mark.parametrize(
    ("code", "claimed"),
    [
        ("assert state.queue is not None", "engine-assert"),
        ("assert len(states) == 1", "engine-assert"),
        ("assert self.check(state)", "unknown"),
        ("return self.check(state)", "unknown"),
    ],
)
def test_a_traceback_that_stops_at_a_check_says_which_failed(code, claimed):
    lines = [UP, f"{HANDLER}AsyncLLM output_handler failed.", TASK, f"{HANDLER}    {code}", f"{API}INFO:     done"]
    found = state(*lines, exit_code=None)[1]
    assert found is not None
    assert (found.kind, code in found.cause) == (claimed, claimed == "engine-assert")


def test_memory_while_layers_are_offloaded_is_not_that_of_the_cache():
    lines = ["load_tensors: offloaded 9/9 layers to GPU", "/x/ggml-cuda.cu:31: CUDA error: out of memory"]
    assert kind(*lines, engine="llamacpp", exit_code=134) == "gpu-oom-weights"


def test_a_port_that_is_taken_while_the_server_serves_is_not_taken_at_the_start():
    found = state(UP, *raised("torch/x.py:f", "RuntimeError: port: 7070, message: address already in use"))[1]
    assert found is not None
    assert (found.kind, found.phase) == ("port-taken", "request")


NCCL = "node1:11:12 [0] os/linux.cc:7 NCCL WARN ncclOsSocketPollConnect: connect to 192.0.2.9<4011> returned {}"
UNHANDLED = raised(
    "vllm/x.py:NCCL_CHECK", "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO)"
)


def test_a_connection_that_nccl_could_not_make_is_quoted_before_its_wrapper():
    found = state(NCCL.format("Network is unreachable"), *UNHANDLED)[1]
    assert found is not None
    assert (found.kind, found.confidence, "192.0.2.9" in found.cause) == ("rank-unreachable", "likely", True)
    assert kind(NCCL.format("Connection refused, retrying (3/34)"), *UNHANDLED) == "collective-failed"


def test_the_collective_that_stood_is_quoted_before_the_steps_watchdog():
    watchdog = "[2026-01-02 03:04:05 TP1] Watchdog timeout (self.watchdog_timeout=240)"
    collective = "[rank1]:[E102 03:09:05.000001 ProcessGroupNCCL.cpp:7] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)"
    assert kind(watchdog, engine="sglang") == "step-timeout"
    assert kind(watchdog, collective, engine="sglang") == "collective-hang"


@pytest.mark.parametrize(
    ("said", "claimed"),
    [
        ("/bin/sh: 1: /opt/cuda/bin/nvcc: not found", "toolchain-missing"),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_199'", "toolchain-missing"),
        ("/x/a.cu:3:9: fatal error: cusparse.h: No such file or directory", "toolchain-missing"),
    ],
)
def test_what_a_build_step_said_is_quoted_before_the_build_tool(said, claimed):
    lines = [*raised("torch/utils/cpp_extension.py:_run", "RuntimeError: Ninja build failed. Ninja output:"), said]
    found = state(*lines, "ninja: build stopped: subcommand failed.")[1]
    assert found is not None
    assert (found.kind, found.cause) == (claimed, said)


def test_memory_that_is_taken_may_be_that_of_files_where_gpu_and_host_share_it():
    error = "ValueError: Free memory on device cuda:0 (11.1/119.7 GiB) on startup is less than desired GPU memory utilization (0.7, 83.8 GiB)."
    found = state(*raised("vllm/x.py:request_memory", error))[1]
    assert found is not None
    assert (found.kind, "page cache" in found.remedy) == ("dirty-gpu", True)
