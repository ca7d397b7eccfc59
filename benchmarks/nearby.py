"""A server on this machine for the duration of a measurement."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx

from pytest_longctx import toml
from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client.request import open_client
from pytest_longctx.client.server import Server
from pytest_longctx.deployments.deployment import Deployment


def server_at(url: str, model: str = "miniature") -> Server:
    """Return the server at *url*. The tokenizers of other tools are at the path *model*."""
    about = {"name": "benchmark", "title": "benchmark", "backend": "miniature", "model": {"name": "unknown"}}
    deployment = toml.check({**about, "max_model_len": 20_000_000}, Deployment, "the benchmark's deployment")
    return Server(url, model, Miniature(), deployment, "url")


@contextlib.contextmanager
def serving(*command: str, model: str = "miniature") -> Iterator[Server]:
    """Start ``python COMMAND --port N``, yield its server as in a test, and end it on exit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    server = server_at(f"http://127.0.0.1:{port}", model)
    with subprocess.Popen([sys.executable, *command, "--port", str(port)], stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(server)
            yield server
        finally:
            process.kill()


def _wait_for(server: Server) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx.HTTPError), open_client(server, 1.0) as http:
            http.get("/health")
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers at {server.url}")
