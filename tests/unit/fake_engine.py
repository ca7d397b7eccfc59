"""A miniature in this process, on its own port."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from pytest_longctx.backends import Backend
from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client.server import Server
from pytest_longctx.miniatures.server import Handler, Honest, Quiet
from pytest_longctx.prompts import PromptFactory
from tests.unit import factories


@contextmanager
def serving(mind: Honest, backend: Backend | None = None) -> Iterator[Server]:
    """Run a server with the behaviour of *mind*."""
    with Quiet(("127.0.0.1", 0), type("Minded", (Handler,), {"mind": mind})) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{httpd.server_port}"
            yield Server(
                url, mind.model, backend or Miniature(), factories.deployment(backend="miniature"), "url", attached=True
            )
        finally:
            httpd.shutdown()
            thread.join()


def prompts() -> PromptFactory:
    return PromptFactory(1, "k", (5, 90))
