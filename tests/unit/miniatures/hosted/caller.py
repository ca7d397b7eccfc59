"""A client of a hosted API in miniature, by plain HTTP."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.faults import FAULTS
from pytest_longctx.miniatures.hosted.faults.path import Elsewhere
from pytest_longctx.miniatures.hosted.wire import serving

LIMIT = 4096
TASK = "Task: give the codes of {}, in this order. Reply with the codes only; write unknown for a missing one."
UNIT = " the"


@dataclass
class Caller:
    """One server and how to ask it."""

    url: str
    api: HostedApi
    key: str = "right"
    elsewhere: Elsewhere | None = None

    def post(self, path: str, body: Any, key: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=20, trust_env=False)

    def chat(self, prompt: Any, key: str | None = None, **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        body = {"model": "miniature", "messages": messages, "temperature": 0, "max_tokens": 32} | fields
        return self.post(
            "/v1/chat/completions", {name: value for name, value in body.items() if value is not None}, key
        )

    def stream(self, prompt: Any, **fields: Any) -> list[Any]:
        """Return the data of the events: objects, and "[DONE]"."""
        options = {"include_usage": True}
        return events(self.chat(prompt, stream=True, stream_options=options, **fields).text)

    def text(self, prompt: Any, **fields: Any) -> str:
        return said(self.chat(prompt, **fields).json())

    def usage(self, prompt: Any, **fields: Any) -> Any:
        return self.chat(prompt, **fields).json().get("usage")

    def tokens(self, prompt: Any, **fields: Any) -> int:
        return int(self.usage(prompt, **fields)["prompt_tokens"])


def said(body: Any) -> str:
    """Return the text of a whole answer."""
    return str(body["choices"][0]["message"]["content"])


def streamed(events: list[Any]) -> str:
    """Return the text of a stream."""
    deltas = [choice["delta"] for event in events if event != "[DONE]" for choice in event.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def events(text: str) -> list[Any]:
    """Return the data of the events in *text*."""
    rows = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [row if row == "[DONE]" else json.loads(row) for row in rows]


def start(stack: ExitStack, name: str, **options: Any) -> Caller:
    """Serve the miniature *name* until *stack* ends."""
    given: dict[str, Any] = {"limit": LIMIT, "key": "right"} | options
    elsewhere = None
    if name == "redirects-elsewhere":
        elsewhere = Elsewhere(HostedApi(limit=LIMIT))
        given["elsewhere"] = stack.enter_context(serving(elsewhere)).replace("127.0.0.1", "localhost")
    api = FAULTS[name](**given)
    return Caller(stack.enter_context(serving(api)), api, elsewhere=elsewhere)


def facts(count: int) -> tuple[list[str], list[str]]:
    """Return *count* things and their codes."""
    return [f"the amber thing{chr(97 + i)}" for i in range(count)], [str(4_821_937 + i) for i in range(count)]


def haystack(parts: int, tokens_each: int, key: str = "1") -> tuple[str, list[str]]:
    """Return a prompt of *parts* facts with *tokens_each* filler tokens after each, and the expected codes."""
    things, codes = facts(parts)
    task = TASK.format(", ".join(things[:-1]) + " and " + things[-1])
    rows = [f" The code of {thing} is {code}." + UNIT * tokens_each for thing, code in zip(things, codes, strict=True)]
    return f"Note {key}. {task}{''.join(rows)} {task}", codes


def found(answer: str, codes: list[str]) -> list[bool]:
    """Return which of *codes* are in *answer*."""
    return [code in answer for code in codes]
