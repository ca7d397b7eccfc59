"""Faults of the answer: the prompt is read and counted, but the answer differs from the request."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from threading import Condition, get_ident
from typing import Any

from pytest_longctx.miniatures.hosted.api import DEFAULT_ANSWER_TOKENS, HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Event, Usage
from pytest_longctx.miniatures.hosted.dialects import Dialect
from pytest_longctx.miniatures.hosted.tokens import Ids, deltas, encode


class IgnoresMaxTokens(HostedApi):
    """The server generates its answer to the end, whatever the maximum is."""

    def maximum(self, call: Call, kept: Ids) -> int:
        return DEFAULT_ANSWER_TOKENS


class IgnoresMaxCompletionTokens(HostedApi):
    """The server knows only the older name, ``max_tokens``."""

    def parsed(self, dialect: Dialect, body: dict[str, Any]) -> Call:
        return super().parsed(dialect, {name: value for name, value in body.items() if name != "max_completion_tokens"})


class IgnoresStop(HostedApi):
    """The server ignores stop sequences."""

    def stopped(self, answer: Answer, stops: tuple[str, ...]) -> Answer:
        return answer


class ReturnsStopSequence(HostedApi):
    """The answer ends with the stop sequence, not before it."""

    def stopped(self, answer: Answer, stops: tuple[str, ...]) -> Answer:
        short = super().stopped(answer, stops)
        if short is answer:
            return answer
        rest = answer.text[len(short.text) :]
        return Answer([*short.parts, next(stop for stop in stops if rest.startswith(stop))], short.tokens, short.finish)


class SaysStopWhenCut(HostedApi):
    """A shortened answer has the finish reason of a complete one."""

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        return replace(super().generated(call, kept, cached), finish="stop")


_OPENINGS = ("Sure: ", "Here: ", "Well: ", "Yes: ", "Then: ", "So: ", "Now: ")


class ChangesGreedyAnswers(HostedApi):
    """The answers to one prompt begin in seven ways, although the temperature is 0."""

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        answer = super().generated(call, kept, cached)
        opening = deltas(encode(_OPENINGS[next(self.numbers) % len(_OPENINGS)]))
        parts = (opening + answer.parts)[: self.maximum(call, kept)]
        cut = answer.finish == "length" or len(parts) < len(opening) + len(answer.parts)
        return self.stopped(Answer(parts, len(parts) + (not cut), "length" if cut else "stop"), call.stop)


class AnswersOtherwiseFromCache(HostedApi):
    """If 256 tokens or more of a prompt are cached, the server does not read the middle of them."""

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        if cached >= 256:
            kept = kept[: cached // 8] + kept[-cached // 8 :]
        return super().generated(call, kept, cached)


class LosesEndOfStream(HostedApi):
    """A streamed answer lacks its last fourth, and at least one token."""

    def events(self, dialect: Dialect, call: Call, number: str, answer: Answer, usage: Usage | None) -> Iterator[Event]:
        left = answer.parts[: len(answer.parts) - max(1, len(answer.parts) // 4)]
        yield from super().events(dialect, call, number, replace(answer, parts=left), usage)


COMPANION_S = 0.25
"""Longest wait for a second request to exchange answers with."""


@dataclass
class MixesCallers(HostedApi):
    """Two requests in the same moment, on two connections, get each other's answers."""

    meeting: Condition = field(default_factory=Condition)
    alone: list[Answer] = field(default_factory=list)
    exchanged: dict[int, Answer] = field(default_factory=dict)
    last_connection: int | None = None
    last_s: float = 0.0

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        own, here, now_s = super().generated(call, kept, cached), get_ident(), time.monotonic()
        with self.meeting:
            in_company = self.last_connection not in {None, here} and now_s - self.last_s < 1
            self.last_connection, self.last_s = here, now_s
            if self.alone:
                other = self.alone.pop()
                self.exchanged[id(other)] = own
                self.meeting.notify_all()
                return other
            if not in_company:
                return own  # a lone caller does not wait for a second one
            self.alone.append(own)
            if not self.meeting.wait_for(lambda: id(own) in self.exchanged, COMPANION_S):
                self.alone.remove(own)
                return own
            return self.exchanged.pop(id(own))
