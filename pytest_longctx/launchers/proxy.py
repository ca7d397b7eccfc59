"""What lies between client and server: a proxy that would cut off a long prompt, found before GPU-hours are spent on it."""

import json
import time

import httpx

from pytest_longctx.client.request import open_client
from pytest_longctx.client.server import Server
from pytest_longctx.errors import LaunchError
from pytest_longctx.units import duration

BYTES_PER_TOKEN = 8
"""Of an id in a request: six digits, a comma, a space."""
SILENCE_S = 65.0
"""The longest silence that is tried out: nginx and most load balancers give up after 60 s unless told otherwise."""
_WORTH_IT_S = 20.0
"""First tokens sooner than this pass every proxy."""
_GIVEN_UP = (408, 502, 504, 524)


def check(server: Server, prompt_tokens: int) -> None:
    """
    Try out whether a prompt of *prompt_tokens* could pass, in its size and its silence, without reading one.

    Raises `LaunchError`. On loopback only the size is tried.
    """
    tokens = min(prompt_tokens, server.max_model_len or prompt_tokens)
    with open_client(server, timeout_s=60) as http:
        _carries(http, server, tokens * BYTES_PER_TOKEN)
        silence_s = min(SILENCE_S, tokens / server.deployment.timeouts.slowest_prefill_tokens_per_s)
        if not server.local and silence_s > _WORTH_IT_S:
            _waits(http, server, silence_s)


def _carries(http: httpx.Client, server: Server, size: int) -> None:
    """A request for a model that is not there, with room for the longest prompt behind it: blanks, which cost nothing to read."""
    head = json.dumps({"model": "pytest-longctx-no-such-model", "prompt": [server.deployment.model.ordinary_ids[0]]})
    body = head.encode()[:-1] + b', "max_tokens": 1}'
    padding = b" " * max(0, size - len(body))
    try:
        answer = http.post("/v1/completions", content=body + padding, headers={"Content-Type": "application/json"})
        said = f"HTTP {answer.status_code} {' '.join(answer.text.split())[:120]}" if answer.status_code == 413 else None
    except httpx.TimeoutException:
        said = "no answer within a minute"
    except httpx.HTTPError as problem:
        said = f"{type(problem).__name__}: {problem}"
    if said:
        raise LaunchError(
            f"{server.url} does not take a request of {size / 1e6:.1f} MB, the size of the longest prompt of this run\n"
            f"  found    {said}\n"
            "  try      a larger body limit of the proxy (nginx: client_max_body_size 0), the server's own address, or\n"
            "           tests with shorter prompts"
        )


def _waits(http: httpx.Client, server: Server, silence_s: float) -> None:
    """A long answer that is not streamed, given up after *silence_s*: whoever lies between sees the same as in a long prefill."""
    low, high = server.deployment.model.ordinary_ids
    prompt = [(low + high) // 2] * 8
    room = (server.max_model_len or 65_536) - len(prompt) - 8
    asked = {"model": server.model, "prompt": prompt, "max_tokens": room, "temperature": 0, **server.backend.body}
    began_s = time.monotonic()
    try:
        answer = http.post("/v1/completions", json=asked, timeout=httpx.Timeout(30, read=silence_s))
        said = f"HTTP {answer.status_code}" if answer.status_code in _GIVEN_UP else None
    except httpx.ReadTimeout:
        return
    except httpx.HTTPError as problem:
        said = f"{type(problem).__name__}: {problem}"
    if said:
        raise LaunchError(
            f"{server.url} is given up after {duration(time.monotonic() - began_s)} of silence; a first token may take longer\n"
            f"  found    {said}, before {duration(silence_s)} had passed\n"
            "  try      a longer idle limit of the proxy (nginx: proxy_read_timeout 1h), or the server's own address"
        )
