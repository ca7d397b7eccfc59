"""Mistakes of Python in an engine's own code, met at work, and what they are not; no line here is from a log of the labelled sets."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.engine_error import engine_error
from pytest_longctx.diagnosis.log_file import read

UP = "INFO:     Application startup complete."
LOOP = '  File "/x/site-packages/vllm/v1/engine/core.py", line 9, in run_busy_loop'
LOADED = "INFO 11-19 12:53:58 [gpu_model_runner.py:2653] Model loading took 14.2717 GiB and 6.204 seconds"
PROFILE = '  File "/x/site-packages/vllm/v1/worker/gpu_worker.py", line 9, in determine_available_memory'
MODEL = "vllm/model_executor/models/xyz.py:forward"


def raised(place, exception, *outer):
    file, _, function = place.partition(":")
    frame = f'  File "/x/site-packages/{file}", line 7, in {function}'
    return ["Traceback (most recent call last):", *outer, frame, "    y = f(x)", exception, ""]


def answer(*lines, engine="vllm"):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()[engine]), Evidence(exit_code=1))[1]


MISTAKES = [
    "KeyError: 17",
    "IndexError: pop from empty list",
    "AttributeError: 'NoneType' object has no attribute 'shape'",
    "TypeError: unsupported operand type(s) for -: 'NoneType' and 'int'",
    "UnboundLocalError: cannot access local variable 'out' where it is not associated with a value",
    "ZeroDivisionError: integer division or modulo by zero",
    "RuntimeError: Sizes of tensors must match except in dimension 2. Expected size 3 but got size 5 for tensor number 1 in the list.",
    "RuntimeError: The size of tensor a (7) must match the size of tensor b (9) at non-singleton dimension 0",
    "RuntimeError: shape '[4, 8]' is invalid for input of size 31",
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:1 and cuda:0!",
    "IndexError: index 9 is out of bounds for dimension 0 with size 9",
    "RuntimeError: split_with_sizes expects split_sizes to sum exactly to 12",
]


@pytest.mark.parametrize("exception", MISTAKES)
@pytest.mark.parametrize("place", [MODEL, "torch/nn/modules/module.py:_call_impl"])
def test_a_mistake_in_the_engines_code_at_work_is_named_with_its_frame(exception, place):
    found = answer(UP, *raised(place, exception, LOOP))
    assert (found.kind, found.confidence, found.phase) == ("engine-assert", "likely", "request")
    assert exception in found.cause
    assert place.partition(":")[0] in found.cause
    assert "not the reason" in found.doubt


@pytest.mark.parametrize("exception", MISTAKES)
def test_the_frames_tell_the_phase_where_the_log_begins_late(exception):
    assert answer(*raised(MODEL, exception, LOOP)).phase == "request"
    assert answer(*raised(MODEL, exception, PROFILE)).phase == "profile"


@pytest.mark.parametrize(
    ("place", "exception"),
    [
        ("ray/serve/_private/deployment_state.py:check_ready", "KeyError: 17"),
        ("my_plugin/patch.py:forward", "KeyError: 17"),
        ("vllm/v1/executor/multiproc_executor.py:get_response", "RuntimeError: rank 3 has no result"),
        ("vllm/x.py:step", "RuntimeError: HIP error: invalid argument"),
        ("vllm/x.py:step", "RuntimeError: cancelled"),
        ("vllm/x.py:step", "ValueError: a batch of this kind needs support"),
        ("vllm/x.py:step", "ValueError: the batch is larger than the buffer"),
        ("vllm/x.py:step", "OSError: [Errno 5] Input/output error"),
    ],
)
def test_what_may_have_another_reason_is_not_understood(place, exception):
    assert answer(UP, *raised(place, exception, LOOP)).kind == "unknown"


def test_a_mistake_while_the_weights_are_loaded_may_follow_from_the_checkpoint():
    assert answer(*raised("vllm/model_executor/models/xyz.py:__init__", "KeyError: 17")).kind == "unknown"


def test_a_call_without_its_arguments_is_a_mistake_in_whatever_phase():
    error = "TypeError: XMethod.create_weights() missing 1 required positional argument: 'x'"
    assert answer(*raised("vllm/model_executor/layers/moe.py:__init__", error)).kind == "engine-assert"
    assert answer(*raised("my_plugin/moe.py:__init__", error)).kind == "unknown"


def test_a_mistake_while_a_module_is_imported_is_none_at_work():
    boot = read(
        ["\n".join([UP, *raised("vllm/x.py:<module>", "KeyError: 17", LOOP)]).encode()], catalogues()["vllm"]
    ).boot
    assert boot.errors.text == "KeyError: 17"
    assert engine_error(boot) is None


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("vllm/distributed/kv_transfer/kv_connector/v1/x.py:get_finished", "kv-transfer"),
        ("vllm/v1/core/sched/scheduler.py:_update_from_kv_xfer_finished", "kv-transfer"),
        ("vllm/v1/core/sched/scheduler.py:get_grammar_bitmask", "structured-output"),
        ("vllm/v1/core/sched/scheduler.py:update_from_output", "engine-assert"),
    ],
)
def test_a_part_of_the_engine_with_a_class_of_its_own_keeps_it(place, kind):
    assert answer(UP, *raised(place, "KeyError: 'cmpl-7'", LOOP)).kind == kind


def test_a_cause_that_a_signature_names_comes_before_it():
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    found = answer(UP, *raised(MODEL, "KeyError: 17", LOOP), *raised(MODEL, oom, LOOP))
    assert found.kind == "gpu-oom-request"


WORKER = "ERROR 11-19 12:54:26 [core.py:710] RuntimeError: Worker failed with error '{}', please check the stack trace above for the root cause"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("LoRA rank 48 is greater than max_lora_rank 8.", "config"),
        ("CUDA error: an illegal memory access was encountered", "gpu-fault"),
        ("something else", "unknown"),
    ],
)
def test_what_a_worker_said_is_understood_without_the_type_of_its_exception(said, kind):
    assert answer(LOADED, WORKER.format(said)).kind == kind


def test_the_address_of_an_actor_is_no_part_of_what_it_says():
    error = "TypeError: {}AsyncEngineArgs.__init__() got an unexpected keyword argument 'reasoning-parser'"
    plain, addressed = (
        answer(*raised("x/core.py:load", error.format(each))) for each in ("", "[address=0.0.0.0:1, pid=2] ")
    )
    assert plain.kind == addressed.kind == "config"


BUSY = (
    "(EngineCore pid=7) INFO 10-22 09:4{}:49 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 seconds. "
    "This typically happens when some processes are hanging or doing some time-consuming work (e.g. compilation)."
)
ANSWERED = '(APIServer pid=1) INFO:     192.0.2.1:2 - "POST /v1/completions HTTP/1.1" 200 OK'
PROBED = '(APIServer pid=1) INFO:     192.0.2.1:2 - "GET /health HTTP/1.1" 200 OK'


def state(*lines):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()["vllm"]), Evidence())


def test_workers_that_stay_silent_are_no_healthy_server_because_a_probe_is_answered():
    busy = [BUSY.format(minute) for minute in range(3)]
    told, found = state(UP, ANSWERED, *busy, PROBED)
    assert (told, found.kind, found.confidence) == ("impaired", "hang-workers", "likely")
    assert state(UP, ANSWERED, *busy, PROBED, ANSWERED)[0] == "healthy"
    assert state(UP, ANSWERED, *busy[:2], PROBED)[0] == "healthy"
    assert state(LOADED, *busy)[0] == "unfinished"


@pytest.mark.parametrize(
    ("exception", "kind"),
    [
        ("NameError: name 'logger' is not defined", "engine-assert"),
        ("AttributeError: 'torch.dtype' object has no attribute 'lower'", "engine-assert"),
        ("TypeError: unsupported operand type(s) for +: 'Tensor' and 'Tensor'", "engine-assert"),
        ("KeyError: 17", "unknown"),
        ("RuntimeError: it went wrong", "unknown"),
    ],
)
def test_before_the_weights_are_loaded_only_what_no_key_explains_counts(exception, kind):
    assert answer(*raised("vllm/engine/llm_engine.py:__init__", exception)).kind == kind
    assert answer(*raised("ray/llm/engine.py:__init__", exception)).kind != "engine-assert"


def test_a_file_of_its_own_that_a_connector_does_not_find_is_its_fault():
    error = "FileNotFoundError: [Errno 2] No such file or directory: '/cache/vllm@1@5d2a.pt'"
    found = answer(UP, *raised("lmcache/v1/storage_backend/x.py:remove", error, LOOP))
    assert (found.kind, found.phase) == ("kv-transfer", "request")
    assert "issues of the component" in found.remedy


TRIED = "torch.OutOfMemoryError: XPU out of memory. Tried to allocate {} MiB. GPU 0 has a total capacity of 11.93 GiB of which {} GiB is free."


@pytest.mark.parametrize(
    ("asked_mib", "free_gib", "kind"),
    [
        ("2.00", "11.33", "device"),
        ("512.00", "2.01", "device"),
        ("512.00", "1.99", "gpu-oom-weights"),
        ("900.00", "0.20", "gpu-oom-weights"),
    ],
)
def test_an_allocation_that_was_refused_with_room_for_it_is_no_lack_of_memory(asked_mib, free_gib, kind):
    place = "vllm/model_executor/models/xyz.py:load_model"
    found = answer(*raised(place, TRIED.format(asked_mib, free_gib)))
    assert found.kind == kind
    assert (f"{float(free_gib):.2f} GiB were free" in found.doubt) is (kind == "device")


def test_a_limit_of_the_process_explains_the_free_memory():
    allowed = (
        TRIED.format("2.00", "11.33") + " 3.00 GiB allowed; Of the allocated memory 3.00 GiB is allocated by PyTorch"
    )
    assert answer(*raised("vllm/model_executor/models/xyz.py:load_model", allowed)).kind == "gpu-oom-weights"


def test_columns_of_a_relay_are_no_part_of_a_traceback():
    error = "AttributeError: 'torch.dtype' object has no attribute 'lower'"
    plain = raised("vllm/engine/llm_engine.py:__init__", error)[1:]
    relayed = [f"U | 2025-07-18 11:29:37.824 | worker |   | {line}" for line in plain]
    assert answer(*relayed).kind == answer(*plain).kind == "engine-assert"


def test_paths_of_windows_are_frames_of_the_engine():
    frame = r'  File "C:\Users\user\site-packages\vllm\v1\attention\backends\x.py", line 7, in forward'
    lines = ["Traceback (most recent call last):", LOOP, frame, "    y = f(x)", "KeyError: 17"]
    assert answer(UP, *lines).kind == "engine-assert"


DEAD = "CRITICAL 11-26 13:20:09 launcher.py:99] MQLLMEngine is already dead, terminating server process"
SAID = "RuntimeError('Error in model execution (input dumped to /tmp/x.pkl): {}')"


@pytest.mark.parametrize(
    ("because", "kind"),
    [
        (
            "shape mismatch: value tensor of shape [7, 8] cannot be broadcast to indexing result of shape [9, 8]",
            "engine-assert",
        ),
        (
            "[09:44:56] /workspace/cpp/matcher.cc:296: Token id 0: <unk> cannot be accepted by the GrammarMatcher",
            "structured-output",
        ),
        ("CUDA error: an illegal memory access was encountered", "gpu-fault"),
        ("something else", "unknown"),
    ],
)
def test_what_the_engine_quotes_of_a_step_counts_before_the_end_that_follows_from_it(because, kind):
    assert answer(UP, DEAD, f"ERROR 11-26 13:20:09 engine.py:135] {SAID.format(because)}").kind == kind


def test_an_exception_that_is_quoted_as_python_shows_it_is_read():
    said = "vllm.engine.multiprocessing.MQEngineDeadError: Engine loop is not running. Inspect the stacktrace to find the original error: "
    found = answer(UP, f"{said}ValueError('Attempted to assign 2 x 8 = 16 multimodal tokens to 8 placeholders').")
    assert found.kind == "engine-assert"
    assert "ValueError: Attempted to assign" in found.cause


def test_a_refusal_of_a_configuration_is_none_in_a_server_that_serves():
    refused = "AssertionError: the workspace is not supported with a size of 0.76 MB"
    place = "vllm/v1/worker/workspace.py:get"
    assert answer(*raised(place, refused)).kind == "config"
    assert answer(UP, *raised(place, refused, LOOP)).kind == "engine-assert"


PINNED = (
    "ggml_vulkan: Failed to allocate pinned memory.",
    "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
)


def test_memory_that_could_not_be_pinned_is_no_lack_of_memory():
    def states(*lines):
        return assess(read(["\n".join([*lines, ""]).encode()], catalogues()["llamacpp"]), Evidence())

    loading = "INFO [                    main] loading model"
    assert states(loading, *PINNED) == ("unfinished", None)
    found = states(loading, *PINNED, "ggml_vulkan: Device memory allocation of size 1073741824 failed.", PINNED[1])[1]
    assert found is not None
    assert found.kind.startswith("gpu-oom")
