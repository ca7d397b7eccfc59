"""Request the scores of texts, one after the other or all at once."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import httpx

from pytest_longctx.backends import Scoring
from pytest_longctx.client import event_loop
from pytest_longctx.client.drift import scores
from pytest_longctx.client.drift.scores import TOP_TOKENS, Array, Scores, UnscoredError
from pytest_longctx.client.exchange import Ending, Exchange, Refusal, UnservedError
from pytest_longctx.client.http_client import decoder, error_text
from pytest_longctx.client.server import Answer, Server, unaskable
from pytest_longctx.client.watchdog import open_http
from pytest_longctx.processes.progress import Progress, ProgressCallback
from pytest_longctx.processes.shortages import own_error
from pytest_longctx.prompts import Prompt
from pytest_longctx.redaction import shown

_BYTES_PER_LOGPROB: Final = 250
"""Most bytes of one log-probability in an answer. With the token's text, vLLM writes about 65."""
_SPARE_BYTES: Final = 2**20
_LOOK_S: Final = 5.0
_HEALTH_S: Final = 5.0

READERS: Final[Mapping[str, Callable[[bytes, Array], Scores]]] = MappingProxyType(
    {"vllm": scores.of_vllm, "sglang": scores.of_sglang}
)
"""Functions that read an answer, by the name in a backend's `Scoring`."""


class _Failed(NamedTuple):
    """The ending of a request that returned no scores."""

    ending: Ending
    detail: str = ""
    refusal: Refusal | None = None


def score(server: Server, texts: Sequence[Prompt], watch: ProgressCallback, *, at_once: bool) -> list[Scores]:
    """
    Return the scores of each of *texts* on *server*.

    Raises `UnservedError` for the first text without scores, and `LaunchError` if this process cannot send requests.
    """
    scoring = server.backend.scoring
    assert scoring is not None
    return event_loop.run(_all(server, scoring, texts, watch, at_once=at_once))


async def _all(
    server: Server, scoring: Scoring, texts: Sequence[Prompt], watch: ProgressCallback, *, at_once: bool
) -> list[Scores]:
    async with open_http(server, None) as http:
        company = len(texts) if at_once else 1
        telling = asyncio.create_task(_tell(server, texts, watch))
        try:
            if at_once:
                asked = (_one(http, server, scoring, text, company) for text in texts)
                return list(await asyncio.gather(*asked))
            return [await _one(http, server, scoring, text, company) for text in texts]
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell(server: Server, texts: Sequence[Prompt], watch: ProgressCallback) -> None:
    """Show that the client waits for scores, which the server does not stream."""
    began_s = time.monotonic()
    what = f"scores of {len(texts)} texts from {server.deployment.name}"
    limit_s = server.deployment.timeouts.request_s(sum(map(len, texts)), 1)
    while True:
        watch(Progress(what, "waiting", time.monotonic() - began_s, limit_s))
        await asyncio.sleep(_LOOK_S)


async def _one(http: httpx.AsyncClient, server: Server, scoring: Scoring, text: Prompt, company: int) -> Scores:
    """Return the scores of *text*, one of *company* texts whose scores are requested at once. Raises `UnservedError`."""
    limit_s = server.deployment.timeouts.request_s(len(text) * company, 1)
    started_s = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            found = await _asked(http, server, scoring, text)
    except TimeoutError:
        found = _Failed("unfinished", f"no scores within {limit_s:.0f} s")
    except httpx.HTTPError as problem:
        if (ours := own_error(problem, server.url)) is not None:
            raise ours from None
        found = _Failed("disconnected", f"{type(problem).__name__}: {problem}".rstrip(": "))
    if isinstance(found, Scores):
        return found
    ended_s, health = time.monotonic(), None
    if found.ending not in ("refused", "not asked"):
        health = await _health(http, server)
    exchange = Exchange(
        *(len(text), 1, started_s, found.ending, ended_s),
        refusal=found.refusal,
        health=health,
        detail=shown(found.detail, server.secrets),
    )
    raise UnservedError(found.ending, exchange)


async def _health(http: httpx.AsyncClient, server: Server) -> int | None:
    """
    Return the HTTP status of a health check of *server* after a request without scores; None if the server does not
    answer.
    """
    try:
        return (await http.get(server.backend.health, timeout=_HEALTH_S)).status_code
    except httpx.HTTPError:
        return None


async def _asked(http: httpx.AsyncClient, server: Server, scoring: Scoring, text: Prompt) -> Scores | _Failed:
    async with http.stream("POST", scoring.path, json=body(server, scoring, text)) as response:
        if response.status_code != 200 or "text/html" in response.headers.get("content-type", ""):
            return _refused(server, scoring, response, await error_text(response))
        page, most = bytearray(), _SPARE_BYTES + len(text) * (TOP_TOKENS + 1) * _BYTES_PER_LOGPROB
        pieces = decoder(response)
        async for raw in response.aiter_raw():
            for piece in pieces.pieces(raw):
                page += piece
                if len(page) > most:
                    return _Failed("malformed", f"the answer has more than {most:,} bytes for {len(text):,} tokens")
    try:
        return READERS[scoring.reader](bytes(page), text.ids)
    except UnscoredError as problem:
        return _Failed("malformed", str(problem))
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as problem:
        return _Failed("malformed", f"the answer is not JSON with log-probabilities: {problem}")


def body(server: Server, scoring: Scoring, text: Prompt) -> dict[str, Any]:
    """Return the request body that asks the server for the scores of *text*."""
    named = {"model": server.model, **server.body} if scoring.named else {}
    return {scoring.member: text.ids.tolist(), **named, **scoring.body, scoring.top: TOP_TOKENS}


def _refused(server: Server, scoring: Scoring, response: httpx.Response, text: str) -> _Failed:
    refusal = Refusal.read(response.status_code, text, server.secrets)
    answer = Answer(
        f"POST {scoring.path}",
        response.status_code,
        text,
        response.headers.get("content-type", ""),
        response.headers.get("location", ""),
    )
    keyed, direct = "Authorization" in server.headers, server.local and not server.attached
    why = unaskable(answer, local=direct, attached=server.attached, keyed=keyed, secrets=server.secrets)
    if why is not None:
        return _Failed("not asked", str(why), refusal)
    return _Failed("refused" if response.status_code < 500 else "server error", "", refusal)
