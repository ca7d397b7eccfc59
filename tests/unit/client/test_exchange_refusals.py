"""A refusal is recognised in every dialect and transport."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from pytest_longctx.client import request
from pytest_longctx.client.server import Server
from pytest_longctx.findings.scope import Conditions
from pytest_longctx.launchers.boot import Boot
from pytest_longctx.registry import BACKENDS, load
from tests.unit import factories
from tests.unit.fake_engine import prompts
from tests.unit.recorded_logs import REFUSALS

OVER_LENGTH = [each for each in REFUSALS if each[2] != "engine-error"]
WORDS = {"type": "BadRequestError", "param": None, "code": 400}


def nested(text):
    """Error format of vLLM."""
    return 400, json.dumps({"error": {"message": text, **WORDS}})


def flat(text):
    """Error format of SGLang."""
    return 400, json.dumps({"object": "error", "message": text, **WORDS})


def in_stream(text):
    """Error format of SGLang 0.5.6 in a stream."""
    return 200, f"data: {json.dumps({'error': {'object': 'error', 'message': text, **WORDS}})}\n\ndata: [DONE]\n\n"


def plain(text):
    """A plain-text error, as from no known server."""
    return 400, text


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server with one fixed answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if status == 200 else "application/json")
            self.end_headers()
            self.wfile.write(body.encode())
            self.close_connection = True

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


@pytest.mark.parametrize("shape", [nested, flat, in_stream, plain])
@pytest.mark.parametrize(("name", "text", "signature", "sizes"), OVER_LENGTH)
def test_it_has_its_signature_and_its_sizes(name, text, signature, sizes, shape):
    with answering(*shape(text)) as url:
        server = Server(url, "m", load(BACKENDS[name])(), factories.deployment(backend=name), "url", attached=True)
        exchange = request.ask(server, prompts()(5), 2, deadline_s=10)
    seen = Boot(Conditions(server.deployment), {}, 1.0, server).weigh(exchange)
    assert exchange.refusal is not None
    assert (exchange.refusal.text, exchange.refusal.in_stream) == (text, shape is in_stream)
    assert (seen.outcome, seen.kind, seen.signature, seen.said) == ("refuses", "over-length", signature, text)
    assert seen.metrics.items() >= {**sizes, "refusal_status": 400}.items()
