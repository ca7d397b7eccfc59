"""The dialects of hosted APIs: the form of a request, of a whole answer, and of the events of a stream."""

import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import Any, Final

from pytest_longctx.miniatures.hosted.calls import Answer, Call, Event, Message, RequestError, Usage
from pytest_longctx.miniatures.hosted.tokens import SPECIAL, Ids, encode, vocabulary

ROLES: Final = frozenset(name.strip("<|>") for name in SPECIAL[2:7])
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect: path, parser and renderers. The *parts* of a stream are the texts that its tokens add."""

    path: str
    parse: Callable[[Body], Call]
    whole: Callable[[Call, str, Answer, Usage | None], Body]
    events: Callable[[Call, str, Answer, Usage | None], Iterator[Event]]


def _number(body: Body, names: tuple[str, ...], low: float, high: float, *, whole: bool) -> Any:
    """Return the number that *body* sets in a dialect: the value of the first of *names* that is present."""
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "an integer" if whole else "a number"
            raise RequestError(f"Invalid type for '{name}': expected {kind}, but got {value!r} instead.", name)
        if not low <= value <= high:
            raise RequestError(f"Invalid value for '{name}': {value} is not in the range {low} to {high}.", name)
        return value
    return None


def _stop(body: Body) -> tuple[str, ...]:
    stop = body.get("stop")
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > 16 or not all(isinstance(each, str) and each for each in stops):
        raise RequestError("Invalid value for 'stop': a text, or a list of texts, was expected.", "stop")
    return stops


def _call(dialect: str, body: Body, messages: tuple[Message, ...], limits: tuple[str, ...]) -> Call:
    options = body.get("stream_options") or {}
    if options and not body.get("stream"):
        raise RequestError("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    temperature = _number(body, ("temperature",), 0, 2, whole=False)
    return Call(
        dialect,
        body.get("model"),
        messages,
        max_tokens=_number(body, limits, 1, 1 << 40, whole=True),
        stop=_stop(body),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        temperature=1.0 if temperature is None else temperature,
        seed=_number(body, ("seed",), -(1 << 63), 1 << 63, whole=True),
        ignore_eos=bool(body.get("ignore_eos")),
        salt=str(body.get("cache_salt") or ""),
        named=frozenset(body),
    )


def _plain(content: Any, param: str) -> str:
    """Return the text of a dialect's message content: a text, or a list of text parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise RequestError(f"Invalid type for '{param}': expected a text or a list of text parts.", param)
    return content


def _message(role: str, text: str) -> Message:
    return Message(role, encode(text), text)


def _messages(rows: Any, param: str) -> tuple[Message, ...]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"Invalid '{param}': a list of at least one message was expected.", param)
    for index, row in enumerate(rows):
        if row.get("role") not in ROLES:
            raise RequestError(
                f"Invalid value: {row.get('role')!r}. Supported values are: {', '.join(sorted(ROLES))}.", param
            )
        if "content" not in row:
            raise RequestError(f"Missing required parameter: '{param}[{index}].content'.", param)
    return tuple(_message(row["role"], _plain(row["content"], f"{param}[{i}].content")) for i, row in enumerate(rows))


def _given_ids(value: list[Any], param: str) -> Ids:
    last = len(vocabulary().pieces) - 1
    try:
        ids = array("I", value)
    except (TypeError, OverflowError):
        raise RequestError(f"Invalid type for '{param}': a list of token ids was expected.", param) from None
    if not ids or max(ids) > last:
        raise RequestError(f"Token id {max(ids, default='(none)')} is out of vocabulary (0 to {last}).", param)
    return ids


def _prompt(value: Any, param: str) -> tuple[Message, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]  # a batch of one
    if isinstance(value, str) and value:
        return (_message("", value),)
    if isinstance(value, list) and value:
        return (Message("", _given_ids(value, param), ""),)
    raise RequestError(f"Invalid '{param}': a text or a list of token ids was expected.", param)


# OpenAI's chat completions and completions.


def _parse_chat(body: Body) -> Call:
    call = _call("chat", body, _messages(body.get("messages"), "messages"), ("max_completion_tokens", "max_tokens"))
    if body.get("logprobs"):
        call.logprobs = _number(body, ("top_logprobs",), 0, 20, whole=True) or 0
    return call


def _parse_completion(body: Body) -> Call:
    call = _call("completions", body, _prompt(body.get("prompt"), "prompt"), ("max_tokens",))
    call.max_tokens = call.max_tokens or 16
    call.logprobs = _number(body, ("logprobs",), 0, 20, whole=True)
    return call


def usage_openai(usage: Usage) -> Body:
    """Return the usage record in OpenAI's dialect."""
    record: Body = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion if usage.total is None else usage.total,
    }
    if usage.cached is not None:
        record["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return record


def _base(call: Call, number: str, kind: str) -> Body:
    return {"id": number, "object": kind, "created": int(time.time()), "model": call.model}


def _logprobs(call: Call, parts: list[str]) -> Body | None:
    """Return log-probabilities in OpenAI's dialect, equal for equal texts and all below zero; None if not requested."""
    if call.logprobs is None:
        return None
    values = [-(len(part) % 7 + 1) / 16 for part in parts]
    if call.dialect == "completions":
        return {"tokens": parts, "token_logprobs": values, "top_logprobs": None, "text_offset": [0] * len(parts)}
    rows = [
        {"token": part, "logprob": value, "bytes": list(part.encode())}
        for part, value in zip(parts, values, strict=True)
    ]
    return {"content": [{**row, "top_logprobs": [row] if call.logprobs else []} for row in rows]}


def _whole_openai(call: Call, number: str, answer: Answer, usage: Usage | None) -> Body:
    chat = call.dialect == "chat"
    said = {"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}
    choice = {"index": 0, **said, "logprobs": _logprobs(call, answer.parts), "finish_reason": answer.finish}
    kind = "chat.completion" if chat else "text_completion"
    return _base(call, number, kind) | {"choices": [choice]} | ({} if usage is None else {"usage": usage_openai(usage)})


def _events_openai(call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
    chat = call.dialect == "chat"
    base = _base(call, number, "chat.completion.chunk" if chat else "text_completion")
    if chat:
        yield Event(
            base | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
        )
    for part in answer.parts:
        said = {"delta": {"content": part}} if chat else {"text": part}
        yield Event(
            base | {"choices": [{"index": 0, **said, "logprobs": _logprobs(call, [part]), "finish_reason": None}]}
        )
    last: Body = {"delta": {}} if chat else {"text": ""}
    yield Event(base | {"choices": [{"index": 0, **last, "finish_reason": answer.finish}]})
    if usage is not None and call.include_usage:
        yield Event(base | {"choices": [], "usage": usage_openai(usage)})
    yield Event("[DONE]")


# OpenAI's Responses.


def _parse_responses(body: Body) -> Call:
    given, head = body.get("input"), tuple[Message, ...]()
    if isinstance(body.get("instructions"), str):
        head = (_message("system", body["instructions"]),)
    turns = (_message("user", given),) if isinstance(given, str) and given else _messages(given, "input")
    call = _call("responses", body, head + turns, ("max_output_tokens",))
    call.include_usage = True
    return call


def _response(call: Call, number: str, answer: Answer | None, usage: Usage | None) -> Body:
    base = {"id": number, "object": "response", "created_at": int(time.time()), "model": call.model, "error": None}
    if answer is None:
        return base | {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    cut = answer.finish == "length"
    content = [{"type": "output_text", "text": answer.text, "annotations": []}]
    item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": content}
    counts: Body | None = None
    if usage is not None:
        counts = {
            "input_tokens": usage.prompt,
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion if usage.total is None else usage.total,
        }
        if usage.cached is not None:
            counts["input_tokens_details"] = {"cached_tokens": usage.cached}
    status = "incomplete" if cut else "completed"
    details = {"reason": "max_output_tokens"} if cut else None
    return base | {
        "status": status,
        "incomplete_details": details,
        "output": [item | {"status": status}],
        "usage": counts,
    }


def _whole_responses(call: Call, number: str, answer: Answer, usage: Usage | None) -> Body:
    return _response(call, number, answer, usage)


def _events_responses(call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
    numbers = count()

    def event(name: str, **fields: Any) -> Event:
        return Event({"type": name, "sequence_number": next(numbers), **fields}, name)

    at: Body = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
    started, done = _response(call, number, None, None), _response(call, number, answer, usage)
    yield event("response.created", response=started)
    yield event("response.in_progress", response=started)
    item = {"type": "message", "id": at["item_id"], "role": "assistant", "status": "in_progress", "content": []}
    yield event("response.output_item.added", output_index=0, item=item)
    yield event("response.content_part.added", **at, part={"type": "output_text", "text": "", "annotations": []})
    for part in answer.parts:
        yield event("response.output_text.delta", **at, delta=part)
    yield event("response.output_text.done", **at, text=answer.text)
    yield event("response.content_part.done", **at, part=done["output"][0]["content"][0])
    yield event("response.output_item.done", output_index=0, item=done["output"][0])
    yield event(f"response.{done['status']}", response=done)


# SGLang's /generate.


def _parse_generate(body: Body) -> Call:
    value, param = (body["input_ids"], "input_ids") if "input_ids" in body else (body.get("text"), "text")
    inner = body.get("sampling_params") or {}
    if not isinstance(inner, dict):
        raise RequestError("Invalid type for 'sampling_params': an object was expected.", "sampling_params")
    call = _call("generate", inner | {"stream": body.get("stream")}, _prompt(value, param), ("max_new_tokens",))
    call.max_tokens = call.max_tokens or 128
    call.include_usage = True
    return call


def _generated(number: str, text: str, answer: Answer, usage: Usage | None, *, finished: bool) -> Body:
    finish: Body | None = None
    if finished:
        finish = {"type": answer.finish} | (
            {"length": answer.tokens} if answer.finish == "length" else {"matched": None}
        )
    meta: Body = {"id": number, "finish_reason": finish, "weight_version": "default"}
    if usage is not None:
        meta |= {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
        if usage.cached is not None:
            meta["cached_tokens"] = usage.cached
    return {"text": text, "meta_info": meta}


def _whole_generate(_call: Call, number: str, answer: Answer, usage: Usage | None) -> Body:
    return _generated(number, answer.text, answer, usage, finished=True)


def _events_generate(_call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
    """
    Yield the events of the dialect of SGLang's ``/generate``. Each repeats the text so far, as without
    ``--stream-output``.
    """
    text = ""
    for tokens, part in enumerate(answer.parts[:-1], 1):
        text += part
        so_far = None if usage is None else replace(usage, completion=min(tokens, usage.completion))
        yield Event(_generated(number, text, answer, so_far, finished=False))
    yield Event(_generated(number, answer.text, answer, usage, finished=True))
    yield Event("[DONE]")


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "chat": Dialect("/v1/chat/completions", _parse_chat, _whole_openai, _events_openai),
        "completions": Dialect("/v1/completions", _parse_completion, _whole_openai, _events_openai),
        "responses": Dialect("/v1/responses", _parse_responses, _whole_responses, _events_responses),
        "generate": Dialect("/generate", _parse_generate, _whole_generate, _events_generate),
    }
)
"""Every dialect by its name."""
