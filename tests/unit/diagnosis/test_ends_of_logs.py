"""How a log begins and ends: an announcement long before, a cause before its first line, an exception on its last."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read

VLLM = catalogues()["vllm"]
OPTIONAL = "WARNING 08-27 13:59:59 _custom_ops.py:15] Failed to import from vllm._C with ImportError('libcudart.so.12')"
OTHER = "INFO 08-27 14:00:04 something.py:1] a line that no pattern knows"
TRACE = ["Traceback (most recent call last):", '  File "/x/app.py", line 3, in <module>']
BF16 = "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0."
UNKNOWN = "FrobError: frobnication of shard 7 went wrong"
BANNER = "INFO 11-20 23:36:40 [utils.py:299] vLLM API server version 0.32.0"


def assessed(lines):
    return assess(read(["\n".join([*lines, ""]).encode()], VLLM), Evidence())


def test_an_optional_import_does_not_catch_an_exception_after_other_lines():
    assert assessed([BANNER, OPTIONAL, OTHER, *TRACE, BF16])[1].kind == "dtype-no-device"


def test_the_traceback_of_an_optional_import_itself_is_caught():
    assert assessed([BANNER, OPTIONAL, *TRACE, BF16, OTHER]) == ("unfinished", None)


def test_the_exception_that_a_log_ends_with_is_reported_without_a_class():
    state, found = assessed([BANNER, *TRACE, UNKNOWN])
    assert (state, found.kind, found.cause) == ("failed", "unknown", f"unknown, here is the first error: {UNKNOWN}")


def test_an_exception_after_which_the_log_goes_on_is_no_end():
    assert assessed([BANNER, *TRACE, UNKNOWN, *[OTHER] * 9]) == ("unfinished", None)


def test_a_log_that_begins_after_its_cause_says_so():
    lines = [
        '(APIServer pid=6)   File "/x/vllm/v1/engine/utils.py", line 960, in wait_for_engine_startup',
        "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    ]
    assert "stands in the lines before" in assessed(lines)[1].cause
    assert "stands in the lines before" not in assessed([BANNER, *lines])[1].cause


@pytest.mark.parametrize(
    ("frame", "error", "kind"),
    [
        ("/x/torch/_inductor/scheduler.py", "AssertionError: node 7", "compile"),
        ("/x/xgrammar/compiler.py", "ValueError: no such rule", "structured-output"),
        ("/x/vllm/lora/peft_helper.py", "ValueError: fields are absent", "lora-mismatch"),
        ("/x/vllm/multimodal/encoder_budget.py", "ValueError: The budget must suffice", "config"),
        ("/x/numpy/core.py", "ValueError: The budget must suffice", "unknown"),
        ("/x/vllm/model_executor/models/foo.py", "NotImplementedError: Only silu is supported", "model-unsupported"),
    ],
)
def test_an_unknown_wording_is_judged_by_the_program_that_raised_it(frame, error, kind):
    found = assessed([BANNER, TRACE[0], f'  File "{frame}", line 3, in check', error])[1]
    assert (found.kind, found.confidence) == (kind, "unknown" if kind == "unknown" else "likely")


def test_a_refusal_of_the_engine_counts_only_before_it_serves():
    served = [BANNER, "INFO:     Application startup complete."]
    died = ["ERROR 11-20 23:37:40 [core.py:1231] EngineCore encountered a fatal error.", TRACE[0]]
    end = ['  File "/x/vllm/multimodal/encoder_budget.py", line 3, in check', "ValueError: The budget must suffice"]
    assert assessed([*served, *died, *end])[1].kind == "unknown"


@pytest.mark.parametrize(
    "error",
    [
        "ValueError: the request has more tokens than max_total_tokens",
        "httpx.ConnectTimeout: timed out",
        "jinja2.exceptions.TemplateSyntaxError: unexpected '.'",
        "FileNotFoundError: [Errno 2] No such file or directory: '/uploads/config.json'",
    ],
)
def test_an_error_of_a_request_at_the_end_of_a_log_is_no_failure_of_its_server(error):
    served = [BANNER, "INFO:     Application startup complete.", '10.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK']
    assert assessed([*served, "ERROR 11-20 23:37:40 [x.py:1] a request failed", *TRACE, error]) == ("healthy", None)
