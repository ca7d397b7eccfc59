"""A running server: what is detected about it and about a proxy in front of it before the measurement."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

MINE = """
name = "mine"
title = "t"
backend = "vllm"
version = ">=0.30"
[model]
name = "m"
id = "org/model"
"""


@pytest.fixture
def answering():
    """``answering(version=..., root=..., most=...)``: a server that reports these values, with a body limit of *most* bytes."""
    started = []

    def start(*, version="0.32.0", root="org/model", most=10**9):
        class Door(BaseHTTPRequestHandler):
            def say(self, status, body):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def do_GET(self):
                row = {"id": "m", "root": root, "max_model_len": 65536}
                self.say(200, {"version": version, "data": [row]})

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                self.rfile.read(size)
                self.say(413 if size > most else 200, {"choices": [{"text": " a"}]})

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f"--longctx-launcher=url:http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("tells", "message"),
    [
        ({"version": "0.12.0"}, "is version 0.12.0; the deployment says >=0.30"),
        ({"root": "org/another"}, "has loaded org/another; the deployment says org/model"),
        ({"most": 10_000}, "rejects a request of 0.5 MB, the size of the longest prompt of this run"),
    ],
)
def test_what_would_spoil_a_run_is_an_error_before_it(run, pytester, answering, tells, message):
    (pytester.path / "mine.toml").write_text(MINE)
    chosen = ("--backend=vllm", "--longctx-deployment=mine.toml", "-k", "LC-0001 or LC-0004")
    done = run(*chosen, answering(**tells))
    assert message in done.text
    assert "Traceback" not in done.text
    assert done.outcome.parseoutcomes() == {
        "errors": 2,
        **{k: v for k, v in done.outcome.parseoutcomes().items() if k == "deselected"},
    }


@pytest.mark.parametrize("tells", [{}, {"root": "/models/somewhere"}, {"version": None}, {"most": 100_000}])
def test_what_a_server_does_not_tell_is_not_held_against_it(run, pytester, answering, tells):
    """A body limit that only longer prompts would reach does not apply to this run."""
    (pytester.path / "mine.toml").write_text(MINE)
    done = run("--backend=vllm", "--longctx-deployment=mine.toml", "-k", "LC-0001", answering(**tells))
    assert "ERROR at setup" not in done.text
    assert "instead of an event stream" in done.text  # it is no engine, although it was queried
