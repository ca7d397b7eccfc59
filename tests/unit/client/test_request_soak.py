"""Requests leave no memory behind: the short form of ``benchmarks/soak.py``, in memory blocks allocated by Python."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from pytest_longctx.backends.miniature import Miniature
from pytest_longctx.client import load
from pytest_longctx.client.request import ask
from pytest_longctx.client.server import Server
from pytest_longctx.findings.ask import Ask
from pytest_longctx.miniatures.server import Handler, Honest, Quiet
from pytest_longctx.prompts import PromptFactory
from tests.unit import factories

PROMPT = PromptFactory(1, "k", (1000, 100_000))(64)
"""Always the same prompt, because the miniature keeps the prompts it has read."""
REQUESTS = 100
ROUNDS = 8
"""Caches need a few rounds to settle. A leak of each request appears in every round with at least one block."""


@contextmanager
def miniature() -> Iterator[Server]:
    with Quiet(("127.0.0.1", 0), type("MindedHandler", (Handler,), {"mind": Honest()})) as httpd:
        thread = Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{httpd.server_port}"
            yield Server(url, "miniature", Miniature(), factories.deployment(backend="miniature"), "url", attached=True)
        finally:
            httpd.shutdown()
            thread.join()


def left_blocks(server: Server) -> int:
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(REQUESTS // 2):
        assert ask(server, PROMPT, 4).ending == "complete"
    load.run(server, lambda _: PROMPT, Ask(prompt_tokens=64, output_tokens=4, requests=REQUESTS // 2, concurrency=10))
    gc.collect()
    return sys.getallocatedblocks() - before


def test_requests_leave_no_memory_behind():
    with miniature() as server:
        left_blocks(server)  # one-time imports and caches
        assert any(left_blocks(server) < REQUESTS * 3 // 4 for _ in range(ROUNDS))
