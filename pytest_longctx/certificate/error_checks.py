"""Error checks: the server must reject an invalid request at once, with a status and a message that a client can use."""

import json
from collections.abc import Iterator
from typing import Any

import httpx

from pytest_longctx.certificate.budget import OverBudget
from pytest_longctx.certificate.examination import SMALL, Examination
from pytest_longctx.certificate.length_checks import Limit, above, accepted, accepted_reply
from pytest_longctx.certificate.reply import Reply, numbers
from pytest_longctx.certificate.results import Result, broken, holds, unmeasured
from pytest_longctx.certificate.wire import other_host
from pytest_longctx.units import duration

_WRONG_KEY = "sk-pytest-longctx-wrong-key"
_NO_MODEL = "pytest-longctx-no-such-model"
_TOO_LONG = (400, 413, 422)
GIVEN_UP = (408, 502, 504, 524)
"""HTTP statuses of a proxy that has stopped waiting for the server."""
_SAYS_LENGTH = ("long", "length", "context", "token", "exceed", "large", "maximum")


def judge(exam: Examination) -> Iterator[Result]:
    """Yield the results of the checks of refusals and errors, except of those that need all answers of the run."""
    yield from _over_length(exam)
    yield _key(exam)
    yield _wrong(exam, "error-model", {"model": _NO_MODEL}, (400, 403, 404, 422), f"model {_NO_MODEL}")
    yield _wrong(exam, "error-parameter", {"temperature": "hot"}, (400, 422), 'temperature "hot"')
    yield _after(exam)


def _over_length(exam: Examination) -> Iterator[Result]:
    limit: Limit | None = exam.facts.get("limit")
    plain, streamed = _too_long(exam, limit)
    yield _status(exam, plain)
    yield _text(plain if plain is not None and plain.ending == "refused" else streamed)
    yield _in_stream(exam, streamed, plain)


def _too_long(exam: Examination, limit: Limit | None) -> tuple[Reply | None, Reply | None]:
    """Return the refusals of a request that is too long, without and with a stream; None for one that was not sent."""
    if limit is None or limit.fails is None:
        return None, None
    sent = [each.reply for each in exam.sent if each.tokens >= limit.fails.tokens and not accepted(each)]
    plain = next((each for each in sent if not each.streamed), None)
    streamed = next((each for each in sent if each.streamed), None)
    try:
        if plain is None:
            plain = exam.fill(limit.fails.tokens).reply
    except OverBudget:
        pass
    return plain, streamed


def _status(exam: Examination, reply: Reply | None) -> Result:
    name = "error-length-status"
    if reply is None:
        return unmeasured(name, "no request was too long, or the budget does not cover one without streaming")
    if reply.status == httpx.codes.OK:
        because = (
            "the server accepts this length without streaming"
            if accepted_reply(reply)
            else "the status is 200 (see error-200)"
        )
        return unmeasured(name, because, reply.said)
    if reply.ending == "limited" or reply.status in GIVEN_UP or exam.facts.get("dead"):
        because = (
            "the server no longer answers (see error-after)"
            if exam.facts.get("dead")
            else "a proxy answered, or the request was rate-limited"
        )
        return unmeasured(name, because, reply.said)
    if reply.status in _TOO_LONG:
        return holds(name, reply.said)
    return broken(name, reply.said, "400, 413 or 422", "a request one token above the limit")


def _text(reply: Reply | None) -> Result:
    name = "error-length-text"
    if reply is None or reply.ending != "refused":
        return unmeasured(name, "no request was refused with a 4xx because of its length")
    try:
        json.loads(reply.body)
        readable = True
    except ValueError:
        readable = False
    said = reply.error.lower()
    if readable and (numbers(reply.error) or any(word in said for word in _SAYS_LENGTH)):
        return holds(name, reply.said)
    kind = reply.kind or "no content type"
    return broken(
        name, f"{kind}: {reply.said}", "JSON with a message that names the length, or says that the prompt is too long"
    )


def _in_stream(exam: Examination, reply: Reply | None, plain: Reply | None) -> Result:
    name = "error-length-stream"
    if not exam.streams or reply is None:
        return unmeasured(name, "no streamed request was too long")
    if reply.after_error:
        return broken(
            name, f"{reply.after_error} chunks with text after the error {reply.error[:80]!r}", "nothing after an error"
        )
    if reply.status in _TOO_LONG or (reply.status == httpx.codes.OK and reply.error_inside):
        return holds(name, reply.said)
    if because := _not_of_the_stream(exam, reply, plain):
        return unmeasured(name, because, reply.said)
    empty = f"HTTP 200, {len(reply.text)} characters, no error, ended by {reply.ending}"
    seen = empty if reply.status == httpx.codes.OK else reply.said
    return broken(name, seen, "400, 413 or 422, or an error event in the stream")


def _not_of_the_stream(exam: Examination, reply: Reply, plain: Reply | None) -> str:
    """Return why a wrong refusal in a stream is not the fault of the stream; empty if the stream causes it."""
    if reply.ending == "limited":
        return "the server limits its rate"
    if exam.is_broken("error-length-status") or exam.facts.get("dead") or reply.status in GIVEN_UP:
        return "the same request is not refused without streaming either"
    if plain is not None and plain.status == httpx.codes.OK:
        return "the status is also 200 without streaming (see error-200)"
    return ""


def _key(exam: Examination) -> Result:
    name = "error-key"
    if not exam.key_given:
        return unmeasured(name, "no key was given")
    reply = exam.ask(SMALL, 1, key=_WRONG_KEY)
    if reply.status in (401, 403):
        return holds(name, reply.said)
    if reply.ending in ("limited", "no answer"):
        return unmeasured(name, reply.said)
    seen = "a wrong key is served" if reply.served else reply.said
    return broken(name, seen, "401 or 403", "a key that does not exist")


def _wrong(exam: Examination, name: str, fields: dict[str, Any], allowed: tuple[int, ...], asked: str) -> Result:
    if "model" in fields and not exam.dialect.names_model:
        return unmeasured(name, "requests of this dialect name no model")
    if "temperature" in fields and not exam.dialect.temperature:
        return unmeasured(name, "the server does not accept `temperature`")
    reply = exam.ask(SMALL, 1, **fields)
    if reply.status in allowed:
        return holds(name, reply.said, asked)
    if reply.ending in ("limited", "no answer", "locked"):
        return unmeasured(name, reply.said)
    if reply.status == 200 and not reply.served:
        return unmeasured(name, "the status is 200 (see error-200)", reply.said)
    listed = ", ".join(str(each) for each in allowed)
    return broken(name, "it is served" if reply.served else reply.said, listed, asked)


def _after(exam: Examination) -> Result:
    refused = sum(each.ending not in ("served", "limited") for each in exam.wire.replies)
    reply = exam.ask(SMALL, 4)
    if reply.served:
        return holds("error-after", f"served after {refused} refused requests")
    if reply.ending == "limited":
        return unmeasured("error-after", reply.said)
    return broken("error-after", reply.said, "an answer", "a small request after the refusals")


def judge_whole(exam: Examination) -> Iterator[Result]:
    """Yield the results of the checks of refusals and errors that need all answers of the run."""
    replies = exam.wire.replies
    inside = [
        each for each in replies if each.status == 200 and ((each.error_inside and not each.streamed) or _empty(each))
    ]
    if inside:
        seen = f"{len(inside)} of {len(replies)} answers, such as {inside[0].said}"
        yield broken(
            "error-200", seen, "a status of 4xx or 5xx with each error, and text or a finish reason with each 200"
        )
    else:
        yield holds("error-200", f"none of {len(replies)} answers")
    moved = [each for each in replies if each.ending == "redirected"]
    away = [each for each in moved if other_host(exam.wire.base, each.location)]
    if away:
        seen = f"HTTP {away[0].status} to another host, in {len(away)} of {len(replies)} answers (not followed)"
        yield broken(
            "error-redirect", seen, "no redirect to another host, because clients send the API key to that host too"
        )
    else:
        yield holds("error-redirect", f"{len(moved)} redirects, none to another host")
    yield _cut(exam, replies)
    echoes = [each for each in replies if each.echoes_key]
    if echoes:
        yield broken(
            "error-echo",
            f"{len(echoes)} of {len(replies)} answers, such as {echoes[0].said}",
            "no answer that contains the API key",
        )
    elif exam.key_given:
        yield holds("error-echo", f"none of {len(replies)} answers")
    else:
        yield unmeasured("error-echo", "no key was given")
    late = [each for each in replies if each.after_done]
    if late:
        yield broken("error-done", f"{len(late)} streams continue after [DONE]", "nothing after it")
    elif any(each.arrivals_s for each in replies):
        yield holds("error-done", "no stream goes on")
    else:
        yield unmeasured("error-done", "no stream was served")


def _empty(reply: Reply) -> bool:
    """Return whether *reply*, an answer with status 200 and no stream, has no text, no finish reason and no error."""
    return not (reply.streamed or reply.text or reply.thought or reply.finish or reply.error)


def _cut(exam: Examination, replies: list[Reply]) -> Result:
    cut = [each for each in replies if each.ending in ("cut", "no answer") and not above(exam, each)]
    if not cut:
        return holds("error-cut", f"none of {len(replies)} answers")
    word = "broke off" if cut[0].ending == "cut" else "no answer"
    where = f"after {duration(cut[0].took_s)}, {cut[0].prompt_characters:,} characters sent"
    seen = f"{len(cut)} of {len(replies)}: {word} {where}, {cut[0].said}"
    if len(cut) == 1:
        return unmeasured("error-cut", "one connection failed once", seen)
    return broken("error-cut", seen, "every answer ends as its protocol requires")
