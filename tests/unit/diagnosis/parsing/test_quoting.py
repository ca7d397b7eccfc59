"""What a log quotes says nothing of its server: prompts, answers, arguments, commands, lines of DEBUG."""

import json

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read
from pytest_longctx.diagnosis.parsing.quoting import in_string, quoted

CATALOGUES = catalogues()
QUOTES = {
    "prompt": lambda text: (
        f"INFO 11-21 10:20:01 [logger.py:40] Received request c-1: prompt: {text!r}, params: SamplingParams(n=1)"
    ),
    "prompt at DEBUG": lambda text: (
        f"DEBUG 11-21 10:21:00 [request_logger.py:53] Request c-1 details: prompt: {text!r}, prompt_token_ids: None"
    ),
    "stop strings": lambda text: (
        f"INFO 11-21 10:20:01 [request_logger.py:49] Received request c: params: SamplingParams(stop=[{text!r}])"
    ),
    "answer": lambda text: (
        f"INFO 11-21 10:22:00 [request_logger.py:92] Generated response c (complete): output: {text!r}, finish_reason: stop"
    ),
    "arguments": lambda text: (
        f"INFO 11-21 10:11:32 [api_utils.py:273] non-default args: {{'model': '/m', 'chat_template': {text!r}}}"
    ),
    "namespace": lambda text: f"INFO 10-10 10:23:00 api_server.py:527] args: Namespace(model_tag='x', note={text!r})",
    "configuration": lambda text: (
        f"INFO 11-21 10:11:47 [core.py:114] Initializing a V1 LLM engine (v0.25.1) with config: model={text!r}"
    ),
    "server arguments": lambda text: (
        f"[2026-11-28 15:07:20] server_args=ServerArgs(model_path='m', served_model_name={text!r})"
    ),
    "request": lambda text: (
        f"[2026-11-28 15:09:00] Receive: obj=GenerateReqInput(rid='a1', text={text!r}, sampling_params={{}})"
    ),
    "finish": lambda text: (
        f"[2026-11-28 15:09:00] Finish: obj=GenerateReqInput(rid='a1', text={text!r}), out={{'text': {text!r}}}"
    ),
    "DEBUG": lambda text: f"(EngineCore pid=70) DEBUG 11-21 10:11:30 [a/b.py:53] {text}",
    "INFO": lambda text: f"(EngineCore pid=70) INFO 11-21 10:11:30 [b.py:53] {text}",
    "WARNING": lambda text: f"(EngineCore pid=70) WARNING 11-21 10:11:30 [b.py:53] {text}",
    "JSON": lambda text: json.dumps(
        {"level": "INFO", "logger": "vllm.entrypoints.logger", "message": f"Received request c: prompt: {text!r}"}
    ),
    "JSON at INFO": lambda text: json.dumps({"level": "INFO", "logger": "vllm.x", "message": text}),
    "shell": lambda text: f"$ echo {text!r}",
    "trace of a shell": lambda text: f"+ echo {text}",
    "help": lambda text: f'== if you see "{text}" do something',
    "body": lambda text: (
        '[2026-11-28 15:09:00] body={"messages": [{"role": "user", "content": ' + json.dumps(text) + "}]}"
    ),
}
BOOT = (
    "(APIServer pid=1) INFO 11-21 10:11:32 [api_utils.py:339]  █  version 0.25.1\n"
    "(EngineCore pid=7) INFO 11-21 10:11:49 [gpu_model_runner.py:5306] Model loading took 1.26 GiB memory and 0.142299 seconds\n"
)
UP = {
    "vllm": "(APIServer pid=1) INFO:     Application startup complete.\n",
    "sglang": "[2026-11-28 15:07:50] The server is fired up and ready to roll!\n",
}
AT_ONCE = 20
"""Quoted lines in one log: one log each would be 150,000 logs."""
GOES_ON = "(EngineCore pid=70) INFO 11-21 10:14:02 [a.py:1] on it goes\n"
LEVELS = {"INFO": ("INFO", "JSON at INFO"), "WARNING": ("INFO", "JSON at INFO", "WARNING")}


@pytest.mark.parametrize("engine", UP)
@pytest.mark.parametrize("form", QUOTES)
def test_a_quoted_line_is_no_failure(form, engine):
    known, lines = CATALOGUES[engine], list(quoted_examples(form, engine))
    traces = [line for line in lines if "Traceback" in line]  # what the same logger says next could belong to it
    lines = [line for line in lines if line not in traces]
    for some in [[line] for line in traces] + [lines[at : at + AT_ONCE] for at in range(0, len(lines), AT_ONCE)]:
        said = "".join(f"{line}\n{GOES_ON}" for line in some)
        reading = read([f"{BOOT}{said}".encode()], known)
        assert (reading.failure, reading.fatal) == (None, False), some
        for log in (f"{BOOT}{said}{UP[engine]}", f"{BOOT}{UP[engine]}{said}"):
            assert assess(read([log.encode()], known), Evidence())[0] in ("healthy", "stopped", "unfinished"), some


def quoted_examples(form, engine):
    """Each example line of the engine's signatures, quoted in *form*, but for the signatures that such a line may have."""
    for signature in CATALOGUES[engine].signature:
        allowed = {"INFO": ("INFO", "JSON at INFO", "WARNING"), "WARNING": ("WARNING",), "ERROR": ()}[signature.level]
        if form not in allowed:
            yield from (QUOTES[form](text) for text in (signature.example, *signature.also))


def test_a_line_that_is_not_quoted_is_found_among_quoted_ones():
    """The test above must not pass because it reads several lines at once."""
    known, lines = CATALOGUES["vllm"], list(quoted_examples("help", "vllm"))[:AT_ONCE]
    lines[1] = next(each.example for each in known.signature if each.level == "ERROR")
    assert read([f"{BOOT}{''.join(f'{line}{chr(10)}{GOES_ON}' for line in lines)}".encode()], known).failure is not None


OOM = (
    "(EngineCore pid=7) ERROR 11-21 10:14:30 [core.py:1231] EngineCore failed to start.\n"
    "(EngineCore pid=7) ERROR 11-21 10:14:30 [core.py:1231] Traceback (most recent call last):\n"
    '(EngineCore pid=7) ERROR 11-21 10:14:30 [core.py:1231]   File "/x/gpu_model_runner.py", line 6650, in capture_model\n'
    "(EngineCore pid=7) ERROR 11-21 10:14:30 [core.py:1231] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 256.00 MiB. "
    "GPU 1 has a total capacity of 79.11 GiB of which 101.94 MiB is free.\n"
)


@pytest.mark.parametrize("entry", CATALOGUES["vllm"].benign, ids=lambda entry: entry.id)
def test_a_harmless_line_hides_no_failure_after_it(entry):
    lines = f"{BOOT}(EngineCore pid=7) {entry.example}\n(EngineCore pid=7) INFO 11-21 10:14:02 [a.py:1] on it goes\n"
    alone = read([lines.encode()], CATALOGUES["vllm"])
    assert (alone.failure, alone.fatal) == (None, False)
    state, found = assess(read([f"{lines}{OOM}".encode()], CATALOGUES["vllm"]), Evidence(exit_code=1))
    assert (state, found and found.kind, found and found.phase) == ("failed", "gpu-oom-graphs", "graphs")


@pytest.mark.parametrize(
    ("text", "word", "inside"),
    [
        ("args: {'name': 'out of memory'}", "out of", True),
        ("it couldn't start: out of memory", "out of", False),
        ("the model's own: out of memory", "out of", False),
        ('say "out of memory"', "out of", True),
        ("'a' and 'b': out of memory", "out of", False),
        ('ValueError("out of memory")', "out of", False),
    ],
)
def test_what_stands_inside_quotation_marks_is_quoted(text, word, inside):
    assert in_string(text, text.index(word)) is inside
    assert quoted(text, text.index(word)) is inside
