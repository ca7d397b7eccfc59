"""Dialects of endpoints: the fields of a request, and the place of the answer. `dialects.toml` has the data."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pytest_longctx.client.json_values import count_of

Turn = tuple[str, str]
"""Role and content of one message."""

_FINISH: Final = {"max_output_tokens": "length", "max_tokens": "length", "completed": "stop"}
"""Maps the finish reasons of other dialects to those of chat completions."""
_COUNTS: Final = (
    ("prompt", ("prompt_tokens", "input_tokens")),
    ("answer", ("completion_tokens", "output_tokens")),
    ("total", ("total_tokens",)),
    (
        "cached",
        ("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens", "cached_tokens"),
    ),
    ("reasoning", ("completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens")),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts of one answer; None for a count that is not reported."""

    prompt: int | None = None
    answer: int | None = None
    total: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    """Reasoning tokens. Some providers count them as part of the answer, others separately."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The request and answer format of one kind of endpoint, with the fields that this server accepts."""

    id: str
    path: str
    form: str
    """``messages`` or ``text``."""
    prompt: str
    limit: tuple[str, ...]
    """Names of the field that limits the tokens of an answer. The first one is used."""
    text: tuple[str, ...]
    finish: tuple[str, ...]
    usage: tuple[str, ...]
    thought: tuple[str, ...] = ()
    delta: tuple[str, ...] = ()
    delta_thought: tuple[str, ...] = ()
    delta_of: Mapping[str, str] = field(default_factory=dict)
    """Maps the type of an event to the field with its text."""
    cumulative: bool = False
    """Whether each event of a stream repeats the whole text so far."""
    stop: str | None = None
    inside: str | None = None
    """Name of the object that contains the sampling fields; None if they are top-level fields."""
    logprob: tuple[str, ...] = ()
    ask_logprob: Mapping[str, Any] = field(default_factory=dict)
    stream_options: bool = False
    """Whether a request must ask for usage in a stream."""
    temperature: bool = True
    least_answer: int = 1
    names_model: bool = True
    """Whether a request contains the model's name."""

    def without(self, name: str) -> "Dialect":
        """Return the dialect without the field *name*, which the server has refused."""
        if name == "stream_options":
            return replace(self, stream_options=False)
        if name == "temperature":
            return replace(self, temperature=False)
        return replace(self, limit=tuple(each for each in self.limit if each != name) or self.limit)

    @property
    def fewer(self) -> Iterator["Dialect"]:
        """The dialect with the next change of a field, for a server that refuses a request without naming the field."""
        renamed = [self.without(self.limit[0])] if len(self.limit) > 1 else []
        plain = [self.without("temperature")] if self.temperature else []
        yield from (*plain, *renamed, *(each.without("temperature") for each in renamed if plain))

    @property
    def without_version(self) -> "Dialect":
        """The dialect for a server whose API is not under ``/v1``."""
        return replace(self, path=self.path.removeprefix("/v1"))

    def body(self, turns: tuple[Turn, ...], model: str | None, answer_tokens: int, **more: Any) -> dict[str, Any]:
        """
        Return the request body in this dialect for the messages *turns*.

        The dialect translates ``stream``, ``stop`` and ``logprob`` in *more*. All other fields are sent unchanged.
        """
        stream, stop, logprob = (more.pop(name, None) for name in ("stream", "stop", "logprob"))
        sampling: dict[str, Any] = {self.limit[0]: max(answer_tokens, self.least_answer)}
        if self.temperature:
            sampling["temperature"] = 0
        if stop and self.stop:
            sampling[self.stop] = [stop]
        # A field of *more* replaces the usual one, or with None leaves it out.
        sampling.update({name: value for name, value in more.items() if name != "model"})
        sampling = {name: value for name, value in sampling.items() if value is not None}
        content: Any = (
            [{"role": role, "content": text} for role, text in turns]
            if self.form == "messages"
            else "\n".join(text for _, text in turns)
        )
        asked_model = more.get("model", model)
        made: dict[str, Any] = {"model": asked_model} if asked_model and self.names_model else {}
        made[self.prompt] = content
        made |= {self.inside: sampling} if self.inside else sampling
        if stream:
            made["stream"] = True
            if self.stream_options:
                made["stream_options"] = {"include_usage": True}
        return made | (dict(self.ask_logprob) if logprob else {})

    def words(self, page: Any, *, streamed: bool = False) -> tuple[str, str]:
        """Return the text and the reasoning of a *page* in this dialect: a whole answer, or one event of a stream."""
        if streamed and self.delta_of:
            name = self.delta_of.get(str(page.get("type"))) if isinstance(page, dict) else None
            return (str(page.get(name) or "") if name else "", "")
        text, thought = (self.delta, self.delta_thought) if streamed else (self.text, self.thought)
        return _text(page, text), _text(page, thought)

    def finished(self, page: Any) -> str | None:
        """Return the finish reason of a *page* in this dialect, in the words of chat completions; None if it has none."""
        found = next((value for path in self.finish for value in _at(page, path) if isinstance(value, str)), None)
        if self.id == "responses" and found not in (*_FINISH, "content_filter"):
            return None
        return _FINISH.get(found, found) if found else None

    def first_logprob(self, page: Any) -> float | None:
        """Return the log-probability of the answer's first token in a *page* of this dialect; None if not reported."""
        values = (value for path in self.logprob for value in _at(page, path))
        return next((float(value) for value in values if isinstance(value, int | float)), None)

    def counts(self, page: Any) -> Counts | None:
        """Return the token counts in a *page* of this dialect; None if not reported."""
        for path in self.usage:
            for found in _at(page, path):
                if isinstance(found, dict):
                    read = {name: _count(found, names) for name, names in _COUNTS}
                    if read["prompt"] is not None or read["answer"] is not None:
                        return Counts(**read)
        return None


def _count(usage: Any, names: tuple[str, ...]) -> int | None:
    values = (count_of(_whole(value)) for name in names for value in _at(usage, name))
    return next((value for value in values if value is not None), None)


def _whole(value: Any) -> Any:
    """Return a count that a server writes as ``7.0`` or ``"7"`` as an integer, and any other value unchanged."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        return int(value)
    return value


def _text(page: Any, paths: tuple[str, ...]) -> str:
    for path in paths:
        found = "".join(value for value in _at(page, path) if isinstance(value, str))
        if found:
            return found
    return ""


def _at(page: Any, path: str) -> Iterator[Any]:
    """Yield the values at the dotted *path* of a dialect in the answer *page*."""
    name, _, rest = path.partition(".")
    inner: list[Any] = []
    if isinstance(page, list):
        inner = page if name == "*" else page[int(name) : int(name) + 1] if name.isdigit() else []
    elif isinstance(page, dict) and name in page:
        inner = [page[name]]
    for each in inner:
        if rest:
            yield from _at(each, rest)
        elif each is not None:
            yield each


@lru_cache(maxsize=1)
def known() -> tuple[Dialect, ...]:
    """Return every known dialect, in the order in which they are tried."""
    table = tomllib.loads(Path(__file__).with_name("dialects.toml").read_text(encoding="utf-8"))
    return tuple(_dialect(name, entry) for name, entry in table.items())


def _dialect(name: str, entry: Mapping[str, Any]) -> Dialect:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Dialect(id=name, **values)
