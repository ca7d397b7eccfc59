"""Rules that know a kind of exception and not its words: they claim no more than that, and nothing where another reason is likelier."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read


def answer(*lines, engine="vllm"):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()[engine]), Evidence(exit_code=1))[1]


def raised(frame, exception, *before):
    return answer(
        *before, "Traceback (most recent call last):", f'  File "{frame[0]}", line 7, in {frame[1]}', exception
    )


def test_a_refused_architecture_that_is_in_its_own_list_is_no_unknown_one():
    text = "ValueError: Model architectures ['LlamaForCausalLM'] are not supported for now. Supported architectures: dict_keys(['AquilaModel', {}])"
    assert answer(text.format("'MistralForCausalLM'")).kind == "model-unsupported"
    assert answer(text.format("'LlamaForCausalLM'")).kind == "environment"


@pytest.mark.parametrize("names", ["[]", "['XForCausalLM', 'YForCausalLM']"])
def test_a_refusal_of_none_or_of_several_architectures_is_read(names):
    assert (
        answer(f"ValueError: Model architectures {names} are not supported for now. Supported: []").kind
        == "model-unsupported"
    )


def test_a_file_of_the_model_that_is_no_json_is_no_argument():
    found = answer(
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        "  Value error, Expecting value: line 1 column 1 (char 0) [type=value_error, input_value=ArgsKwargs((), {})]",
    )
    assert found.kind == "model-config"


def test_a_part_of_an_engine_that_is_missing_does_not_mean_that_the_engine_is():
    assert answer("ModuleNotFoundError: No module named 'vllm'").kind == "engine-missing"
    assert answer("ModuleNotFoundError: No module named 'vllm._C'").kind == "environment"


WORKER = ("/x/vllm/v1/worker/gpu_model_runner.py", "_dummy_run")
MORE = [
    (WORKER, "ValueError: the tensor must lie on the device"),
    (WORKER, "ValueError: Expected cu_seqlens on the device, got the host"),
    (("/x/vllm/attention/layer.py", "__init__"), "RuntimeError: it went wrong, maybe --enforce-eager helps"),
    (("/x/vllm/attention/layer.py", "__init__"), "KeyError: 'max_num_seqs'"),
    (("/x/xgrammar/tokenizer_info.py", "from_huggingface"), "ValueError: Unsupported tokenizer type: <class 'X'>"),
    (("/x/xgrammar/compiler.py", "compile_json_schema"), "AttributeError: 'NoneType' object has no attribute 'x'"),
    (("/x/torch/_dynamo/eval_frame.py", "_fn"), "ConnectionError: the peer is gone"),
    (("/x/torch/_dynamo/eval_frame.py", "_fn"), "TimeoutError: rank 3 did not answer"),
    (("/x/torch/fx/graph_module.py", "call_wrapped"), "KeyError: 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "exception"), MORE)
def test_an_exception_whose_words_fit_several_causes_is_not_understood(frame, exception):
    found = raised(frame, exception)
    assert found.kind == "unknown"
    assert exception in found.cause


@pytest.mark.parametrize(
    ("frame", "exception"),
    [
        (WORKER, "AssertionError: hidden_states must be contiguous"),
        (("/x/vllm/v1/core/sched/scheduler.py", "schedule"), "AssertionError: request is not in the running queue"),
    ],
)
def test_an_assertion_of_the_engine_is_a_failed_check_and_no_more(frame, exception):
    found = raised(frame, exception)
    assert (found.kind, found.confidence) == ("engine-assert", "likely")
    assert exception in found.cause
    assert frame[0] in found.cause
    assert "not the reason" in found.doubt


def test_an_assertion_without_words_is_quoted_with_its_code():
    code = ("/x/vllm/v1/kv_cache_interface.py", "page_size_bytes")
    found = answer(
        "Traceback (most recent call last):",
        f'  File "{code[0]}", line 402, in {code[1]}',
        "    assert self.page_size_padded >= page_size",
        "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
        "AssertionError",
    )
    assert found.kind == "engine-assert"
    assert "assert self.page_size_padded >= page_size" in found.cause


@pytest.mark.parametrize("frame", [("<stdin>", "<module>"), ("/home/me/check.py", "<module>")])
def test_an_assertion_of_a_users_script_is_not_the_engines(frame):
    assert raised(frame, "AssertionError: the answer is short").kind == "unknown"


def test_a_cause_that_is_named_counts_before_a_failed_check():
    found = answer(
        "(Worker pid=1) ERROR 09-21 06:12:44 [worker.py:9] NIXL transfer failure: handshake_setup_failed | Context: {}",
        "(EngineCore pid=1) ERROR 09-21 06:12:45 [core.py:9] EngineCore encountered a fatal error.",
        "(EngineCore pid=1) Traceback (most recent call last):",
        '(EngineCore pid=1)   File "/x/vllm/v1/core/sched/scheduler.py", line 7, in f',
        "(EngineCore pid=1) AssertionError",
    )
    assert found.kind == "kv-transfer"


def test_an_assertion_that_a_worker_had_is_quoted_by_the_engine():
    found = answer(
        "(EngineCore pid=1) ERROR 05-04 17:54:34 [core.py:1136] RuntimeError: Worker failed with error "
        "'AssertionError: the plan has no rows', please check the stack trace above for the root cause",
    )
    assert (found.kind, found.cause) == ("engine-assert", "AssertionError: the plan has no rows")


NATIVE_CHECKS = [
    ("llamacpp", "/src/ggml/src/ggml.c:3512: GGML_ASSERT(a->ne[2] == b->ne[0]) failed"),
    ("llamacpp", "llama-server: /src/llama-sampler.cpp:1100: void f(x*): Assertion `found' failed."),
    ("sglang", "RuntimeError: Assertion error (csrc/apis/gemm.hpp:120): k_major(a) == k_major(b)"),
    ("vllm", "tvm.error.InternalError: Check failed: (plan.size() == 9) is false: the plan has another size"),
    ("vllm", 'RuntimeError: handle_0 INTERNAL ASSERT FAILED at "../c10/x.cpp":15, please report a bug to PyTorch.'),
    ("trtllm", "[TensorRT-LLM][ERROR] Assertion failed: mNextBlocks.empty() (kvCacheManager.cpp:160)"),
]


@pytest.mark.parametrize(("engine", "line"), NATIVE_CHECKS)
def test_a_check_of_native_code_that_failed_is_one(engine, line):
    found = answer(line, engine=engine)
    assert (found.kind, found.confidence) == ("engine-assert", "likely")
    assert line in found.cause


def test_an_assertion_of_the_models_code_under_a_request_is_no_refused_argument():
    found = answer(
        'ERROR 12-06 14:22:34 engine.py:159]   File "/x/models/tt/llama_model.py", line 180, in validate_input_shape',
        "ERROR 12-06 14:22:34 engine.py:159] AssertionError: Prefill only supports seq_len < 32768",
        "ERROR:    Exception in ASGI application",
        "ERROR 12-06 14:25:41 client.py:250] TimeoutError('No heartbeat received from MQLLMEngine')",
    )
    assert found.kind == "engine-assert"
    assert "Prefill only supports" in found.cause


@pytest.mark.parametrize(
    "text",
    [
        "ValueError: This feature is only supported on CUDA",
        "NotImplementedError: x is not supported on this platform",
        "ValueError: not available on ROCm",
    ],
)
def test_a_platform_that_a_feature_lacks_is_likely_no_more(text):
    assert answer(text).confidence in ("likely", "unknown")


def test_a_failed_product_of_matrices_that_says_no_reason_is_not_understood():
    assert (
        answer(
            "RuntimeError: [fpA_intB Runner] Failed to run cutlass gemm. Error: Error Internal", engine="trtllm"
        ).kind
        == "unknown"
    )


def test_what_a_generic_rule_says_is_marked_so():
    found = raised(("/x/torch/_inductor/lowering.py", "f"), "RuntimeError: it does not lower")
    assert (found.kind, found.confidence) == ("compile", "likely")
    assert "its words are not known" in found.doubt
