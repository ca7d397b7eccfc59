"""Serve a miniature at a port."""

import os
from http.server import ThreadingHTTPServer
from typing import Any

from pytest_longctx.miniatures.server import Handler, Honest


class Quiet(ThreadingHTTPServer):
    """A threading server that does not print a traceback when a client hangs up."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was broken on purpose is no news."""


def serve(mind: Honest, host: str, port: int) -> None:
    """Boot *mind* and serve it for ever, to those who know the key in ``VLLM_API_KEY`` if there is one."""
    mind.boot()
    handler = type("MindedHandler", (Handler,), {"mind": mind, "key": os.environ.get("VLLM_API_KEY")})
    with Quiet((host, port), handler) as server:
        print("INFO:     Application startup complete.", flush=True)
        server.serve_forever()
