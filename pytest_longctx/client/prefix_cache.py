"""A server's prefix cache: emptied on demand, and proved empty by a prompt that it has read before."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Final

import httpx

from pytest_longctx.client.exchange import Refusal
from pytest_longctx.client.request import ask, open_client
from pytest_longctx.client.server import Server
from pytest_longctx.errors import CacheError
from pytest_longctx.observation import Observation
from pytest_longctx.progress import ProgressCallback, no_progress, wait_until
from pytest_longctx.prompts import Sendable

WITNESS_TOKENS: Final = 2048
"""Length of a prompt that is to tell whether a cache was emptied: several blocks, whatever their size."""
_ANSWER_S: Final = 60.0
_FREE_S: Final = 5.0
"""How long a server may hold the blocks of an answer that is complete; until then it refuses."""


def reset(server: Server) -> Refusal | None:
    """Ask *server* to empty its prefix cache: None where it says that it did, else its words; status 404 where it cannot."""
    path = server.backend.reset_path
    if path is None:
        return Refusal(404, f"the backend {server.backend.name} names no endpoint that empties its cache")
    with open_client(server, _ANSWER_S) as http:
        return wait_until(
            lambda: _said_no(http.post(path), server),
            _FREE_S,
            done=lambda refusal: refusal is None or refusal.status == 404,
        )


def _said_no(answer: httpx.Response, server: Server) -> Refusal | None:
    if answer.status_code != 200:
        return Refusal.read(answer.status_code, answer.text, server.secrets)
    with suppress(json.JSONDecodeError):
        said = json.loads(answer.text)
        # Before 0.26 vLLM said nothing, and SGLang says a sentence.
        if isinstance(said, dict) and said.get("success") is False:
            return Refusal.read(200, answer.text, server.secrets)
    return None


def empty(server: Server, witness: Sendable, watch: ProgressCallback = no_progress) -> None:
    """Empty the prefix cache of *server*. Raises `CacheError` unless *witness*, read before, comes back with nothing cached."""
    ask(server, witness, 1, watch=watch)
    refusal = reset(server)
    if refusal is not None:
        raise CacheError(
            f"{server.deployment.name}: its prefix cache was to be emptied; POST {server.backend.reset_path} was answered "
            f"{refusal.status}: {refusal.text}\n"
            "  try      VLLM_SERVER_DEV_MODE=1 in the deployment's [env] for vLLM; a server on which nothing else runs"
        )
    again = ask(server, witness, 1, watch=watch)
    cached = again.usage.cached_tokens
    if cached != 0:
        seen = "not told" if cached is None else f"{cached:,}"
        raise CacheError(
            f"{server.deployment.name}: its prefix cache was to be emptied, and it said that it was\n"
            f"  checked  a prompt of {len(witness):,} tokens that was read just before: cached tokens {seen}, {again.ending}\n"
            "  try      new prompts instead: `prompt` never gives the same one twice"
        )


def observe(server: Server, prompt: Sendable, output_tokens: int, watch: ProgressCallback = no_progress) -> Observation:
    """
    *prompt* three times, the cache emptied before the third: that one as evidence, with what the second had found cached.

    Nothing is observed where the server has no way to empty its cache.
    """
    for_the_first_time, second = (ask(server, prompt, output_tokens, watch=watch) for _ in range(2))
    for each in (for_the_first_time, second):
        if each.ending != "complete":
            return each.observe()
    try:
        refusal = reset(server)
    except httpx.ReadTimeout:
        said = f"the reset: no answer within {_ANSWER_S:.0f} s, and nothing that could be watched"
        return Observation(None, phase="request", kind="too-slow", said=said)
    except httpx.HTTPError as problem:
        return Observation("disconnects", phase="request", said=f"the reset: {type(problem).__name__}: {problem}")
    if refusal is not None:
        return Observation(
            None if refusal.status == 404 else "refuses", phase="request", said=f"the reset: {refusal.text}"
        )
    seen = ask(server, prompt, output_tokens, watch=watch).observe()
    before = second.metrics()["cached_share"]
    return replace(seen, metrics={**seen.metrics, "cached_share_before": before})
