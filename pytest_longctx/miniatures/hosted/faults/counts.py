"""Faults of counting: the prompt is read and answered, but the counts or the limits are wrong."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from threading import Lock

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Message, Reply, RequestError, Usage
from pytest_longctx.miniatures.hosted.refusals import OverLength
from pytest_longctx.miniatures.hosted.tokens import Ids, decode


@dataclass
class Miscounts(HostedApi):
    """A server that reports a changed usage record."""

    turns: Iterator[int] = field(default_factory=itertools.count)
    turns_lock: Lock = field(default_factory=Lock)

    def usage(self, call: Call, sent: Ids, kept: Ids, answer: Answer, cached: int) -> Usage | None:
        right = super().usage(call, sent, kept, answer, cached)
        return right and self.changed(right, call, answer)

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        """Return the wrong counts that the faulty server reports in place of *usage*; None if it reports none."""
        raise NotImplementedError

    def turn(self) -> int:
        """Return the number of the present request, for faults whose counts change with it."""
        with self.turns_lock:
            return next(self.turns)


def characters(messages: tuple[Message, ...]) -> int:
    """Return the number of characters in *messages*, for faults that count them as tokens."""
    return sum(len(message.text or decode(message.ids)) for message in messages)


class CountsCharacters(Miscounts):
    """Each character counts as a token."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, prompt=characters(call.messages))


class EstimatesFromCharacters(Miscounts):
    """Four characters count as a token, as in gateways that have no tokenizer."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, prompt=-(-characters(call.messages) // 4))


class CountsHalfTheTime(Miscounts):
    """Every second answer has no usage."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return usage if self.turn() % 2 else None


class CountsAnewEachTime(Miscounts):
    """The same prompt has a different count each time."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, prompt=usage.prompt + self.turn() % 3)


class RoundsCounts(Miscounts):
    """Counts of prompts are rounded up to hundreds."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, prompt=-(-usage.prompt // 100) * 100)


class CountsNoFurther(Miscounts):
    """The count of a prompt is at most half of the limit, although the prompt is read completely."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, prompt=min(usage.prompt, self.limit // 2))


class CountsOtherwiseInStream(Miscounts):
    """In a stream, the tokens of the template are not counted."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        content = sum(len(message.ids) for message in call.messages)
        return replace(usage, prompt=min(content, usage.prompt - 1)) if call.stream else usage


class CountsAnswerInWords(Miscounts):
    """The answer is counted in words."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, completion=len(answer.text.split()))


class TotalIsNotTheSum(Miscounts):
    """The total does not include the answer."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, total=usage.prompt)


class MakesUpCachedTokens(Miscounts):
    """Nine tenths of every prompt are reported as cached."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, cached=usage.prompt * 9 // 10)


class CachedAboveCommonPrefix(Miscounts):
    """A prompt with a cached start is reported as completely cached."""

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return replace(usage, cached=usage.prompt - 1) if (usage.cached or 0) >= 64 else usage


# Limits.


@dataclass
class ClaimsMore(HostedApi):
    """The server lists twice the length that it serves."""

    def __post_init__(self) -> None:
        self.listed = 2 * self.limit


@dataclass
class ServesMore(HostedApi):
    """The server lists half of the length that it serves."""

    def __post_init__(self) -> None:
        self.listed = self.limit // 2


class TellsAnotherLimit(HostedApi):
    """If a prompt is too long, the error message gives a limit that is 1,000 tokens above the real one."""

    def too_long(self, call: Call, over: OverLength) -> Reply:
        return super().too_long(call, replace(over, limit=over.limit + 1000))


class CountsTemplateTwice(HostedApi):
    """The limit adds the template to a count that already includes it. The usage does not."""

    def over_length(self, call: Call, sent: Ids) -> OverLength | None:
        template = len(sent) - sum(len(message.ids) for message in call.messages)
        over = super().over_length(call, sent + sent[:template])
        return over and replace(over, prompt=len(sent))


@dataclass
class UnequalReplicas(Miscounts):
    """Every second request goes to a replica with three quarters of the limit."""

    def over_length(self, call: Call, sent: Ids) -> OverLength | None:
        limit = self.limit if self.turn() % 2 else self.limit * 3 // 4
        over = super().over_length(call, sent + sent[: self.limit - limit] if len(sent) > self.limit - limit else sent)
        return over and replace(over, limit=limit, prompt=len(sent))

    def changed(self, usage: Usage, call: Call, answer: Answer) -> Usage | None:
        return usage


class FailsHalfway(HostedApi):
    """Prompts of 0.4 to 0.6 of the limit fail, as with one wrong shape of a compiled kernel."""

    def generated(self, call: Call, kept: Ids, cached: int) -> Answer:
        if 0.4 <= len(kept) / self.limit <= 0.6:
            raise RequestError("The server had an error while processing your request. Sorry about that!", status=500)
        return super().generated(call, kept, cached)
