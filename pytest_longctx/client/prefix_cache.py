"""Reset a server's prefix cache, and verify with a repeated prompt that it is empty."""

from contextlib import suppress
from dataclasses import replace
from typing import Final

import httpx

from pytest_longctx.client.exchange import Refusal, same_answer
from pytest_longctx.client.json_values import json_of
from pytest_longctx.client.request import ask, open_client
from pytest_longctx.client.server import Server
from pytest_longctx.errors import CacheError
from pytest_longctx.observation import Observation
from pytest_longctx.processes.progress import ProgressCallback, no_progress, wait_until
from pytest_longctx.prompts import Sendable
from pytest_longctx.redaction import shown

WITNESS_TOKENS: Final = 2048
"""
Length in tokens of the witness prompt that shows whether the cache is empty. The prompt fills several blocks of any
size.
"""
_ANSWER_S: Final = 60.0
_FREE_S: Final = 5.0
"""Seconds for which a server may hold the blocks of a finished answer, and therefore refuse a reset."""


def reset(server: Server) -> Refusal | None:
    """
    Reset the prefix cache of *server*. Return None on success, else the refusal. Status 404 means that the server has
    no such endpoint.
    """
    path = server.backend.reset_path
    if path is None:
        return Refusal(404, f"the backend {server.backend.name} has no endpoint that resets its prefix cache")
    with open_client(server, _ANSWER_S) as http:
        return wait_until(
            lambda: _said_no(http.post(path), server),
            _FREE_S,
            done=lambda refusal: refusal is None or refusal.status == 404,
        )


def _said_no(answer: httpx.Response, server: Server) -> Refusal | None:
    if answer.status_code != 200:
        return Refusal.read(answer.status_code, answer.text, server.secrets)
    with suppress(ValueError):
        reported = json_of(answer.content)
        # vLLM before 0.26 answers with an empty body, SGLang with a sentence.
        if isinstance(reported, dict) and reported.get("success") is False:
            return Refusal.read(200, answer.text, server.secrets)
    return None


def empty(server: Server, witness: Sendable, watch: ProgressCallback = no_progress) -> None:
    """
    Empty the prefix cache of *server*. Raises `CacheError` if a repeat of *witness*, an earlier prompt, still has
    cached tokens.
    """
    ask(server, witness, 1, watch=watch)
    refusal = reset(server)
    if refusal is not None:
        raise CacheError(
            f"{server.deployment.name}: prefix cache not reset: POST {server.backend.reset_path} returned "
            f"{refusal.status}: {refusal.text}\n"
            "  try      VLLM_SERVER_DEV_MODE=1 in the deployment's [env] for vLLM; stop all other requests to this server"
        )
    again = ask(server, witness, 1, watch=watch)
    cached = again.usage.cached_tokens
    if cached != 0:
        seen = "not reported" if cached is None else f"{cached:,}"
        raise CacheError(
            f"{server.deployment.name}: the prefix cache is not empty, although the server confirmed the reset\n"
            f"  checked  a prompt of {len(witness):,} tokens sent just before: cached tokens {seen}, {again.ending}\n"
            "  try      a new prompt instead of a reset: `prompt` never returns the same prompt twice"
        )


def observe(server: Server, prompt: Sendable, output_tokens: int, watch: ProgressCallback = no_progress) -> Observation:
    """
    Send *prompt* three times, with a reset of the prefix cache before the third request, and return the observation of
    the reset.

    Return the observation of the third request, with the cached share of the second request added. The outcome is None if the
    server has no endpoint to reset its cache.
    """
    for_the_first_time, second = (ask(server, prompt, output_tokens, watch=watch, traced=True) for _ in range(2))
    for each in (for_the_first_time, second):
        if each.ending != "complete":
            return each.observe()
    try:
        refusal = reset(server)
    except httpx.ReadTimeout:
        message = f"cache reset: no answer within {_ANSWER_S:.0f} s, and no progress could be observed"
        return Observation(None, phase="request", kind="too-slow", said=message)
    except httpx.HTTPError as problem:
        return Observation(
            "disconnects",
            phase="request",
            said=shown(f"cache reset: {type(problem).__name__}: {problem}", server.secrets),
        )
    if refusal is not None:
        return Observation(
            None if refusal.status == 404 else "refuses", phase="request", said=f"cache reset: {refusal.text}"
        )
    third = ask(server, prompt, output_tokens, watch=watch, traced=True)
    before = second.metrics()["cached_share"]
    seen = third.observe()
    seen = replace(seen, metrics={**seen.metrics, "cached_share_before": before})
    # The third reading is computed like the first; the second is the one that the cache answered.
    return same_answer(seen, for_the_first_time, second)
