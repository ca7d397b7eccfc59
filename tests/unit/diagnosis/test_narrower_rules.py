"""Rules that claimed too much: what they leave to another class, or to none, each in lines that no log of a set contains."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read


def states(*lines, engine="vllm", code=None):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()[engine]), Evidence(exit_code=code))


def kind(exception, path, function, engine="vllm"):
    frame = f'  File "/x/{path}", line 7, in {function}'
    found = states("Traceback (most recent call last):", frame, "    f(x)", exception, engine=engine, code=1)[1]
    return found.kind


CUBLAS = "RuntimeError: CUDA error: CUBLAS_STATUS_{} when calling `cublas{}( handle, opa, opb, m, n, k, &a, CUDA_R_{})`"


@pytest.mark.parametrize(
    ("status", "call", "dtype", "right"),
    [
        ("INVALID_VALUE", "LtMatmul", "16F", "environment"),
        ("NOT_SUPPORTED", "GemmStridedBatchedEx", "16BF", "dtype-no-device"),
        ("NOT_SUPPORTED", "GemmStridedBatchedEx", "16F", "gpu-fault"),
        ("EXECUTION_FAILED", "GemmEx", "16BF", "gpu-fault"),
    ],
)
def test_a_status_of_cublas_says_whose_fault_it_is(status, call, dtype, right):
    assert kind(CUBLAS.format(status, call, dtype), "torch/nn/functional.py", "linear") == right


OPERATION = ("vllm/model_executor/kernels/ops/acme.py", "acme_gemm")
LAYER = ("vllm/model_executor/layers/acme.py", "__init__")


@pytest.mark.parametrize(
    "exception",
    [
        "ValueError: the padded rows of acme must be divisible by 48",
        "AssertionError: acme does not support a bias",
        "NotImplementedError: acme only supports 2 inputs",
    ],
)
def test_what_an_operation_refuses_is_no_argument(exception):
    assert kind(exception, *OPERATION) in ("unknown", "engine-assert")
    assert kind(exception, *LAYER) == "config"


def test_a_refusal_without_a_traceback_still_counts():
    assert states("ValueError: acme does not support prefix caching", code=1)[1].kind == "config"


@pytest.mark.parametrize(
    ("exception", "right"),
    [
        ("AssertionError: the acme configuration was read too early, called outside of a context", "engine-assert"),
        ("AttributeError: 'NoneType' object has no attribute 'acme_config'", "engine-assert"),
        ("ValueError: acme wants two stages", "config"),
    ],
)
def test_a_mistake_where_the_configuration_is_read_is_none_of_the_configuration(exception, right):
    assert kind(exception, "vllm/config/acme.py", "__post_init__") == right


@pytest.mark.parametrize(
    ("exception", "right"),
    [
        ("AttributeError: 'Tensor' object has no attribute 'weight_loader'", "engine-assert"),
        ("AttributeError: 'AcmeLinear' object has no attribute 'weight_scale_2'", "checkpoint-mismatch"),
    ],
)
def test_an_attribute_of_the_engine_is_none_of_the_checkpoint(exception, right):
    assert kind(exception, "vllm/model_executor/models/acme.py", "load_weights") == right


def test_a_refusal_that_names_the_gpu_looks_for_no_argument():
    for said in (
        "acme is not yet supported for Ampere",
        "gfx90a does not support acme",
        "acme is not available on XPU",
    ):
        assert kind(f"ValueError: {said}", *LAYER) == "device"
    assert kind("ValueError: acme does not support CUDA graphs", *LAYER) == "config"


def test_what_a_kernel_of_adapters_checks_is_no_fault_of_the_adapter():
    said = "AssertionError: acme rows differ"
    assert kind(said, "vllm/lora/ops/triton_ops/acme.py", "expand") == "engine-assert"
    assert kind(said, "vllm/lora/worker_manager.py", "add_adapter") == "lora-mismatch"
    assert (
        kind("AttributeError: 'Acme' object has no attribute 'r'", "vllm/lora/acme.py", "set_mapping")
        == "engine-assert"
    )
    assert kind("TypeError: Acme() missing 'r'", "peft/config.py", "from_peft_type") == "lora-mismatch"


@pytest.mark.parametrize(
    ("exception", "right"),
    [
        ("KeyError: 'F8_E5M3'", "environment"),
        ("ValueError: 47 is not a valid GGMLQuantizationType", "environment"),
        ("FileNotFoundError: No such file or directory: acme", "weights-corrupt"),
        ("safetensors_rust.SafetensorError: acme ends early", "weights-corrupt"),
    ],
)
def test_a_type_that_the_reader_of_a_file_does_not_know_is_no_damage(exception, right):
    found = kind(exception, "safetensors/torch.py", "_view2torch")
    assert (found == right) is not exception.startswith("FileNotFound")


@pytest.mark.parametrize("said", ["the driver is not running", "permission to acme denied", "acme needs a GPU"])
def test_an_import_that_fails_for_another_reason_is_no_package(said):
    assert kind(f"RuntimeError: {said}", "site-packages/acme/__init__.py", "<module>") != "environment"
    assert kind("RuntimeError: acme has two releases", "site-packages/acme/__init__.py", "<module>") == "environment"


def test_a_lookup_in_a_connector_is_one_of_the_transfer_once_it_moves_blocks():
    path = "vllm/distributed/kv_transfer/kv_connector/v1/acme_connector.py"
    assert kind("KeyError: 'req-7'", path, "_read_remote") == "kv-transfer"
    assert kind("KeyError: 'role'", path, "__init__") == "unknown"


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("vllm/v1/core/sched/acme.py", "admit"),
        ("vllm/core/acme.py", "admit"),
        ("vllm/v1/worker/acme.py", "_update_states_of_acme"),
        ("sglang/srt/managers/schedule_batch.py", "merge"),
        ("vllm/model_executor/models/acme.py", "_process_image_input"),
    ],
)
def test_code_that_runs_with_the_weights_loaded_is_known_by_its_file(path, function):
    engine = path.partition("/")[0]
    for exception in ("KeyError: 'req-7'", "ValueError: too many values to unpack (expected 2)"):
        assert kind(exception, path, function, engine) == "engine-assert"
    assert kind("KeyError: 'req-7'", "vllm/acme.py", "admit") == "unknown"


WARM_UP = "AssertionError: res=<Response [{}]>, res.text=''"


def test_a_warm_up_that_a_proxy_answered_is_none_of_the_engines_checks():
    place = ("sglang/srt/entrypoints/http_server.py", "_execute_server_warmup", "sglang")
    assert [kind(WARM_UP.format(status), *place) for status in (504, 500)] == ["proxy", "engine-assert"]


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("[TensorRT-LLM][ERROR] Assertion failed: remaining_buffer_size > 8 (acme.h:7)", "wrong-build"),
        (
            "E0618 08:11:13.2 1 a.cc:7] failed to load 'acme' version 1: [json.exception.out_of_range.403] key 'acme' not found",
            "wrong-build",
        ),
    ],
)
def test_an_engine_file_of_another_release_is_told_by_its_reader(line, right):
    assert states(line, engine="trtllm", code=1)[1].kind == right


def test_a_failed_assertion_in_a_compiler_is_one_of_the_compiler():
    line = "python3: /acme/lib/Dialect/TritonGPU/IR/Acme.cpp:7: void acme(): Assertion `n > 0' failed."
    assert states(line, code=134)[1].kind == "compile"
    assert states(line.replace("Dialect/TritonGPU", "acme"), code=134)[1].kind == "engine-assert"
