"""Interface of the direct load, with a model that answers one word; the real one is tested with transformers itself."""

import threading
from http.server import ThreadingHTTPServer

import httpx
import pytest

from pytest_longctx.backends.transformers import Transformers, serve
from pytest_longctx.deployments.deployment import Deployment, Model


class Word(list[int]):
    def tolist(self):
        return list(self)


class Parrot(serve.Loaded):
    def __init__(self):
        self.name, self.version, self.limit, self.size = "parrot", "5.0", 100, 50

    def generate(self, asked, streamer):
        streamer.put(Word(asked["prompt"]))
        for _ in range(asked["max_tokens"]):
            streamer.put(Word([7]))
        streamer.end()


@pytest.fixture
def door():
    class Door(serve.Door):
        loaded, key = Parrot(), "k"

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        with httpx.Client(base_url=base, headers={"Authorization": "Bearer k"}) as client:
            yield client
        server.shutdown()


def test_each_token_is_an_event_and_the_record_comes_last(door):
    asked = {"prompt": [1, 2, 3], "max_tokens": 2, "stream": True}
    lines = [line for line in door.post("/v1/completions", json=asked).text.splitlines() if line]
    assert [" 7" in line for line in lines] == [True, True, False, False]
    assert '"prompt_tokens": 3, "completion_tokens": 2' in lines[2]
    assert lines[3] == "data: [DONE]"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": [1] * 99, "max_tokens": 2}, "99 and 2 tokens are more than max_model_len 100"),
        ({"prompt": "words"}, "the prompt must be a list of token ids"),
        ({"prompt": [50]}, "a token id is outside the vocabulary of 50"),
        ([], "not a completion request"),
    ],
)
def test_what_cannot_be_answered_is_refused(door, asked, message):
    answer = door.post("/v1/completions", json=asked)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_what_just_fits_is_answered(door):
    answer = door.post("/v1/completions", json={"prompt": [1] * 98, "max_tokens": 2}).json()
    assert answer["usage"]["total_tokens"] == 100


def test_who_has_no_key_gets_no_answer(door):
    assert door.post("/v1/completions", json={"prompt": [1]}, headers={"Authorization": "no"}).status_code == 401


def test_its_command_line_runs_the_script_by_the_engines_interpreter():
    one = Deployment(
        name="t",
        title="t",
        backend="transformers",
        model=Model(name="m"),
        max_model_len=100,
        flags={"dtype": "float32"},
    )
    argv = Transformers().recipe(one, "/m", 8000, "/e/python", key="k").argv
    assert argv == (
        *("/e/python", "-I", serve.__file__, "--port", "8000", "--model", "/m"),
        *("--served-model-name", "m", "--max-model-len", "100", "--dtype", "float32", "--host", "127.0.0.1"),
    )
