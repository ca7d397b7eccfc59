"""Lines of programs around an engine: TorchServe, Ray Serve, supervisord, Ollama, Kubernetes."""

import json

import pytest

from pytest_longctx.backends import catalogues, every_catalogue
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.engine_of_log import engine_of
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.parsing.records import parse

CATALOGUES = catalogues()
UP = "INFO:     Application startup complete.\n"
ANSWERED = '{"level":"INFO","logger":"uvicorn.access","msg":"192.0.2.6:1 - \\"POST /v1/completions HTTP/1.1\\" 200"}\n'
UNHEALTHY = "  Warning  Unhealthy  3m58s (x14 over 6m)  kubelet  Startup probe failed: Get http://192.0.2.17:8000/health: refused\n"
KILLING = "  Normal  Killing  2m12s  kubelet  Container main failed startup probe, will be restarted\n"
READY = "    Ready:          True\n"
LOADING = "INFO 03-21 10:12:40 [gpu_model_runner.py:537] Starting to load model /m\n"
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
WAITING = (
    "(APIServer pid=1) INFO 04-15 07:3{}:40 [loggers.py:259] Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation "
    "throughput: 0.0 tokens/s, Running: 0 reqs, Waiting: {} reqs, GPU KV cache usage: 0.0%\n"
)
WORKING = WAITING.replace("generation throughput: 0.0", "generation throughput: 9.0").replace(
    "Running: 0", "Running: 1"
)
SIZES = (
    "INFO 04-15 07:22:50 [model.py:1712] Using max model len {}\n"
    "(EngineCore pid=9) INFO 04-15 07:24:10 [kv_cache_utils.py:1319] GPU KV cache size: 76,640 tokens\n"
)


def of(text: str) -> LogReader:
    mine = text.encode()
    return read([mine], CATALOGUES.get(engine_of([mine]) or "") or every_catalogue())


def state(text: str, exit_code: int | None = None) -> tuple[str, str | None]:
    found = assess(of(text), Evidence(exit_code))
    return found[0], found[1].kind if found[1] else None


@pytest.mark.parametrize(
    "answer",
    [
        "'Exit code 137 means Reason: OOMKilled. Out of memory: Killed process 812 (python3)'",
        "'look at it:\nReason: OOMKilled\nOut of memory: Killed process 812 (python3)\nExit Code: 137'",
        "'a pod is\nKilling: Stopping container vllm'",
        "'RuntimeError: NVML says:\nRuntimeError: CUDA error: no CUDA-capable device is detected'",
    ],
)
@pytest.mark.parametrize("logger", ["vllm.entrypoints.logger", "gateway"])
@pytest.mark.parametrize("key", ["msg", "message", "event"])
def test_an_answer_in_a_line_of_json_is_no_evidence(answer, logger, key):
    entry = {"level": "INFO", "logger": logger, key: f"Generated response a1: output: {answer}, finish_reason: stop"}
    assert state(UP + json.dumps(entry) + "\n" + ANSWERED) == ("healthy", None)
    assert state(UP + json.dumps(entry) + "\n") == ("healthy", None)


@pytest.mark.parametrize(
    "line", ["Out of memory: Killed process 812 (python3) anon-rss:1048576kB", "Reason: OOMKilled"]
)
def test_the_kernels_own_line_in_json_still_is(line):
    entry = json.dumps({"SYSLOG_IDENTIFIER": "kernel", "MESSAGE": line})
    assert state(LOADING + entry + "\n", 137) == ("failed", "host-oom")


def test_the_state_of_a_container_is_read_as_an_object():
    assert state(LOADING + '            "OOMKilled": true,\n', 137) == ("failed", "host-oom")
    event = '            "message": "Container main failed liveness probe, will be restarted",\n'
    assert state(LOADING + event, 137) == ("failed", "killed")


@pytest.mark.parametrize(
    ("text", "exit_code", "said"),
    [
        (UNHEALTHY + UP, None, ("healthy", None)),
        (UP + UNHEALTHY, None, ("healthy", None)),
        (UNHEALTHY + LOADING, None, ("unfinished", None)),
        (READY + UNHEALTHY + KILLING + UP, None, ("healthy", None)),
        (UNHEALTHY + KILLING + LOADING, None, ("failed", "killed")),
        (UNHEALTHY + LOADING, 137, ("failed", "killed")),
        (UNHEALTHY + LOADING, 1, ("failed", "unknown")),
        (UNHEALTHY + LOADING + OOM, 1, ("failed", "gpu-oom-weights")),
    ],
)
def test_a_probe_that_fails_says_nothing_without_a_kill(text, exit_code, said):
    assert state(text, exit_code) == said


@pytest.mark.parametrize(
    "prefix",
    [
        "2024-11-18T16:43:45,496 [INFO ] W-9000-model_1.0-stdout MODEL_LOG - ",
        "2024-11-18T16:43:45,496 [WARN ] W-9000-vllm_1.0-stderr MODEL_LOG - ",
        "(ServeReplica:app:VLLM pid=7) ",
        "",
    ],
)
def test_a_wrapper_that_relays_standard_error_as_information_hides_no_cause(prefix):
    lines = ["Traceback (most recent call last):", '  File "/x/vllm/a.py", line 3, in load_model', "    x()", OOM]
    assert state("".join(f"{prefix}{line}\n" for line in lines), 1) == ("failed", "gpu-oom-weights")


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        ("INFO 2024-11-18 16:43:41,110 default_VLLM a1b2 -- it is up", 20, "it is up"),
        ("(ServeController pid=1) ERROR 2024-11-18 16:43:41,110 controller 1 -- no", 40, "no"),
        ("2025-02-02 19:42:11,220\tINFO worker.py:1636 -- Connecting", 20, "Connecting"),
        ("2024-11-18T16:43:46,012 [WARN ] W-9000-m org.pytorch.serve.wlm.WorkerThread - again", 30, "again"),
        ("(autoscaler +10m11s, ip=192.0.2.4) Error: none", None, "Error: none"),
    ],
)
def test_the_prefixes_of_ray_and_torchserve_are_removed(line, level, text):
    found = parse(line)
    assert (found.level, found.text) == (level, text)


def test_supervisord_tells_how_a_process_ended_and_that_it_runs_again():
    gone = "2024-11-18 16:43:41,110 INFO exited: vllm (terminated by {}; not expected)\n"
    again = "2024-11-18 16:43:43,110 INFO success: vllm entered RUNNING state\n"
    assert of(gone.format("SIGABRT (core dumped)")).evidence.exit_code == -6
    assert of(gone.replace("terminated by {}", "exit status 3")).evidence.exit_code == 3
    assert of(gone.format("SIGKILL") + again).evidence.exit_code is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (SIZES.format(262144) + UP + "".join(WAITING.format(n, n) for n in (1, 2, 3)), ("impaired", "hang-admission")),
        (SIZES.format(4096) + UP + "".join(WAITING.format(n, n) for n in (1, 2, 3)), ("impaired", "unknown")),
        (SIZES.format(262144) + UP + "".join(WAITING.format(n, n) for n in (1, 2)), ("healthy", None)),
        (SIZES.format(262144) + UP + "".join(WAITING.format(n, 0) for n in (1, 2, 3)), ("healthy", None)),
        (
            SIZES.format(262144) + UP + "".join(WAITING.format(n, n) for n in (1, 2, 3)) + WORKING.format(4, 4),
            ("healthy", None),
        ),
    ],
)
def test_requests_that_wait_while_none_runs_are_told(lines, said):
    assert state(lines) == said


NO_NODES = "(autoscaler +16s) Error: No available node types can fulfill resource request {'GPU': 1.0}.\n"


def test_a_cluster_that_finds_its_nodes_later_was_well():
    assert state("INFO ray_utils.py:212] waiting\n" + NO_NODES) == ("failed", "cluster-resources")
    assert state(NO_NODES + LOADING) == ("unfinished", None)


def test_chats_without_a_template_are_told_unless_one_is_answered():
    refused = (
        "ERROR 08-14 16:17:00 [serving_chat.py:222] Error in preprocessing prompt inputs\n"
        "ERROR 08-14 16:17:00 [serving_chat.py:222] Traceback (most recent call last):\n"
        "ERROR 08-14 16:17:00 [serving_chat.py:222] ValueError: As of transformers v4.44, default chat template is no longer "
        "allowed, so you must provide a chat template if the tokenizer does not define one.\n"
        'INFO:     127.0.0.1:40212 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request\n'
    )
    assert state(UP + refused) == ("impaired", "chat-template-missing")
    assert state(UP + refused + refused.splitlines(keepends=True)[3].replace("400 Bad Request", "200 OK")) == (
        "healthy",
        None,
    )


@pytest.mark.parametrize(
    ("error", "signature"),
    [
        ("Error 802: system not yet initialized", "fabric-manager"),
        ("Error 803: system has unsupported display driver / cuda driver combination", "driver-library-mismatch"),
        ("Error 804: forward compatibility was attempted on non supported HW", "driver-too-old"),
        ("Error 801: operation not supported", "operation-not-supported"),
        ("Error 100: no CUDA-capable device is detected", "no-device"),
        ("Error 101: invalid device ordinal", "no-device"),
        ("Error 999: unknown error", "driver-state"),
        ("Error 35: CUDA driver version is insufficient for CUDA runtime version", "driver-too-old"),
    ],
)
def test_the_number_of_a_cuda_error_tells_what_is_missing(error, signature):
    failure = of(f"RuntimeError: Unexpected error from cudaGetDeviceCount(). {error}\n").failure
    assert failure is not None
    assert failure.signature.id == signature


@pytest.mark.parametrize("start", ["", UP])
def test_the_same_allocation_is_about_a_request_once_the_server_serves(start):
    text = "llama_context: graph_reserve: failed to allocate compute buffers\n"
    log = (
        "llama_model_loader: loaded meta data\n"
        + (start and "main: server is listening on http://0.0.0.0:8080\n")
        + text
    )
    assert state(log, 134) == ("failed", "gpu-oom-request" if start else "gpu-oom-profile")


def test_an_error_that_only_a_call_of_the_engine_caught_is_still_the_first_error():
    text = (
        "(EngineCore pid=86) ERROR 06-01 13:18:12 [core.py:1341] Invocation of add_lora method failed\n"
        "(EngineCore pid=86) ERROR 06-01 13:18:12 [core.py:1341] Traceback (most recent call last):\n"
        "(EngineCore pid=86) ERROR 06-01 13:18:12 [core.py:1341] ValueError: the adapter is odd\n"
    )
    found = assess(of(text), Evidence(1))[1]
    assert found is not None
    assert "the adapter is odd" in found.cause


def test_an_exception_that_only_echoes_another_is_quoted_and_not_called_no_error():
    text = (
        'EngineCore failed to start.\nTraceback (most recent call last):\n  File "/x/a.py", line 3, in f\n    x()\n{}\n'
    )
    echo = "RuntimeError: NCCL error: remote process exited or there was a network error"
    found = assess(of("INFO vllm\n" + text.format(echo)), Evidence(1))[1]
    assert found is not None
    assert (found.kind, echo in found.cause) == ("unknown", True)


def test_the_later_lines_of_a_message_are_no_evidence():
    entry = {"level": "INFO", "logger": "app", "msg": "the model says:\nReason: OOMKilled\nExit Code: 137"}
    assert state(UP + json.dumps(entry) + "\n") == ("healthy", None)


def test_a_container_that_is_stopped_beside_a_server_that_serves_is_another_one():
    stopping = "  Normal  Killing  2m  kubelet  Stopping container sidecar\n"
    assert state(stopping + UP) == ("healthy", None)
    assert state(stopping + LOADING) == ("failed", "killed")


def test_a_client_that_gave_up_is_forgotten_once_the_model_is_loaded():
    gave_up = 'time=1 level=WARN source=server.go:569 msg="client connection closed before server finished loading, aborting load"\n'
    loaded = 'time=2 level=INFO source=server.go:596 msg="llama runner started in 2.01 seconds"\n'
    assert state("ollama\n" + gave_up) == ("impaired", "load-timeout")
    assert state("ollama\n" + gave_up + loaded) == ("unfinished", None)


GRAMMAR = (
    "ERROR 07-20 20:33:13 [{0}] {1}\n"
    "ERROR 07-20 20:33:13 [{0}] Traceback (most recent call last):\n"
    "ERROR 07-20 20:33:13 [{0}] ValueError: Invalid grammar specification\n"
)


def test_a_grammar_is_the_cause_only_where_it_ends_the_engine():
    caught = GRAMMAR.format("serving_chat.py:222", "Error in preprocessing prompt inputs")
    fatal = GRAMMAR.format("core.py:1233", "EngineCore encountered a fatal error.")
    assert state(UP + caught) == ("healthy", None)
    assert state(UP + fatal) == ("failed", "structured-output")
