"""The client: send a prompt, and return what came of it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from pytest_longctx.client import event_loop
from pytest_longctx.client.exchange import Exchange
from pytest_longctx.client.server import Server
from pytest_longctx.client.streaming import Clock, Conversation
from pytest_longctx.errors import PromptError
from pytest_longctx.progress import Watch, unwatched
from pytest_longctx.prompts import Sendable


def open_client(server: Server, timeout_s: float) -> httpx.Client:
    """A plain client for *server*'s small questions; proxies of the environment are not for loopback."""
    return httpx.Client(
        base_url=server.url, headers=dict(server.headers), timeout=timeout_s, trust_env=not server.local
    )


def ask(
    server: Server,
    prompt: Sendable,
    output_tokens: int,
    *,
    deadline_s: float | None = None,
    watch: Watch = unwatched,
    clock: Clock = time.monotonic,
) -> Exchange:
    """
    Send *prompt*, take *output_tokens* tokens back, and return what was seen; a refusal or a hang is returned, not raised.

    *deadline_s* counts from the first byte; without one the deployment's timeouts give it.
    """
    if not hasattr(prompt, "json_chunks") or output_tokens < 1:
        raise PromptError(
            f"ask(prompt(N), M) takes a prompt and at least one token; found {prompt!r:.80}, {output_tokens!r}"
        )
    if deadline_s is None:
        deadline_s = server.deployment.timeouts.request_s(len(prompt), output_tokens)
    talk = Conversation(server, prompt, output_tokens, deadline_s, watch, clock)
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the usual case, in which Ctrl-C ends the request at once; it would wait for a thread
        return event_loop.run(talk.hold(), clock)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(event_loop.run, talk.hold(), clock).result()
