"""Servers that come up and then answer no request, or try one step again for ever."""

import pytest

from pytest_longctx.backends import catalogues
from pytest_longctx.diagnosis.diagnose import Evidence, assess
from pytest_longctx.diagnosis.log_file import read

ROUTER = "2024-10-16T10:52:20.950011Z  INFO text_generation_router::server: router/src/server.rs:2295: Connected"
RUST = (
    "2024-10-16T10:53:40.112904Z ERROR chat_completions: text_generation_router::infer: router/src/infer/mod.rs:178: "
)
LLAMA = "main: server is listening on http://127.0.0.1:8080"
OLLAMA = '[GIN] 2023/10/15 - 13:23:35 | {} |  411.225709ms |       127.0.0.1 | POST     "/api/generate"'
FAILS = [
    ("tgi", ROUTER, f"{RUST}Request failed during generation: Server error: it went wrong"),
    ("tgi", ROUTER, f"{RUST}Server error: it went wrong"),
    ("llamacpp", LLAMA, "srv  log_server_r: request: POST /v1/chat/completions 127.0.0.1 500"),
    ("llamacpp", LLAMA, "srv  log_server_r: done request: POST /completion 127.0.0.1 500"),
    ("llamacpp", LLAMA, OLLAMA.format(500)),
    ("vllm", "INFO:     Application startup complete.", 'INFO:     127.0.0.1:4 - "POST /v1/completions HTTP/1.1" 500 Internal Server Error'),
]  # fmt: skip
ANSWERS = {
    "tgi": "2024-10-16T10:53:45.112904Z  INFO chat_completions: text_generation_router::server: router/src/server.rs:311: Success",
    "llamacpp": "srv  log_server_r: request: POST /v1/chat/completions 127.0.0.1 200",
    "vllm": 'INFO:     127.0.0.1:4 - "POST /v1/completions HTTP/1.1" 200 OK',
}


def state(engine, *lines):
    return assess(read(["\n".join([*lines, ""]).encode()], catalogues()[engine]), Evidence())


@pytest.mark.parametrize(("engine", "ready", "failure"), FAILS)
def test_a_server_that_answers_no_request_is_not_healthy(engine, ready, failure):
    assert state(engine, ready)[0] == "healthy"
    found = state(engine, ready, failure)
    assert (found[0], found[1].kind) == ("impaired", "unknown")
    assert state(engine, ready, failure, ANSWERS[engine])[0] == "healthy"
    assert state(engine, ready, ANSWERS[engine], failure)[0] == "healthy"


def test_a_question_that_only_asks_for_the_models_is_no_answered_request():
    models = '[GIN] 2023/10/15 - 13:23:34 | 200 |      34.367µs |       127.0.0.1 | GET      "/api/tags"'
    assert state("llamacpp", LLAMA, models, OLLAMA.format(500))[0] == "impaired"
    assert state("llamacpp", LLAMA, OLLAMA.format(200), OLLAMA.format(500))[0] == "healthy"


def test_a_refused_input_is_the_clients_fault():
    refused = f"{RUST}Input validation error: `inputs` must have less than 3072 tokens. Given: 3391"
    assert state("tgi", ROUTER, refused)[0] == "healthy"


def test_a_template_that_is_not_found_is_named():
    found = state("tgi", ROUTER, f"{RUST}Template error: template not found")
    assert (found[0], found[1].kind) == ("impaired", "chat-template-missing")
    assert state("tgi", ROUTER, f"{RUST}Template error: template not found", ANSWERS["tgi"])[0] != "failed"


WARM_UP = "ERROR 03-02 09:10:11 [serving.py:214] ValueError: As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the tokenizer does not define one."
UP = "INFO:     Application startup complete."


def test_a_template_that_was_missing_at_the_warm_up_is_no_failure_of_a_server_that_answers():
    assert state("vllm", WARM_UP, UP, ANSWERS["vllm"])[0] == "healthy"
    found = state("vllm", UP, ANSWERS["vllm"], WARM_UP)
    assert (found[0], found[1].kind) == ("impaired", "chat-template-missing")


RETRY = "[2025-08-14 00:31:05,973] LMCache WARNING: Failed to allocate memory object, retrying... (pd_backend.py:567:lmcache.v1)"
WORKS = "INFO 08-14 00:31:12 [loggers.py:1] Engine 000: Avg prompt throughput: 3.1 tokens/s, Avg generation throughput: 9.9 tokens/s, Running: 1 reqs, Waiting: 0 reqs"


def test_an_allocation_that_is_tried_again_to_the_end_of_the_log_is_a_stalled_transfer():
    found = state("vllm", WORKS, *[RETRY] * 5)
    assert (found[0], found[1].kind, found[1].confidence) == ("impaired", "kv-transfer", "likely")
    assert state("vllm", *[RETRY] * 5, WORKS)[0] == "healthy"
    assert state("vllm", WORKS, *[RETRY] * 2)[0] == "healthy"
