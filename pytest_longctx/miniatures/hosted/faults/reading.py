"""Faults of reading: the model does not get the whole prompt. All faults but one count the sent prompt correctly."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from pytest_longctx.miniatures.hosted.api import HostedApi
from pytest_longctx.miniatures.hosted.calls import Answer, Call, Message, Usage
from pytest_longctx.miniatures.hosted.tokens import Ids, decode, encode


def with_longest(messages: tuple[Message, ...], cut: Callable[[Ids], Ids]) -> tuple[Message, ...]:
    """Return *messages* as a faulty server reads them: the content of the longest message is replaced."""
    longest = max(range(len(messages)), key=lambda index: len(messages[index].ids))
    ids = cut(messages[longest].ids)
    return (*messages[:longest], replace(messages[longest], ids=ids, text=decode(ids)), *messages[longest + 1 :])


@dataclass
class Shortens(HostedApi):
    """
    The server reads prompts up to half of its limit. Of longer prompts, it shortens the longest message without a
    notice.
    """

    @property
    def window(self) -> int:
        """Number of prompt tokens that the faulty server reads."""
        return self.limit // 2

    def read(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        spare = self.window - len(self.rendered(messages))
        if spare >= 0:
            return messages
        return with_longest(messages, lambda ids: self.shortened(ids, max(len(ids) + spare, 64)))

    def shortened(self, ids: Ids, room: int) -> Ids:
        """Return the *room* tokens of *ids* that the faulty server reads."""
        raise NotImplementedError


class DropsHead(Shortens):
    """The server reads only the last tokens of a long prompt."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        return ids[-room:]


class DropsTail(Shortens):
    """The server reads only the first tokens of a long prompt."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        return ids[:room]


class DropsMiddle(Shortens):
    """The server keeps half of its room at each end, as a gateway's ``middle-out`` does."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        return ids[: room // 2] + ids[-(room - room // 2) :]


class DropsHeadAndCountsTheRest(DropsHead):
    """The server reads only the last tokens of a long prompt and counts only these, as Ollama does."""

    def usage(self, call: Call, sent: Ids, kept: Ids, answer: Answer, cached: int) -> Usage | None:
        return super().usage(call, kept, kept, answer, cached)


class ReplacesMiddleBySummary(Shortens):
    """The server replaces the middle of a long prompt by one line."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        side = room // 2 - 32
        note = encode(f"\n[Summary: {len(ids) - 2 * side} tokens about everyday things were condensed.]\n")
        return ids[:side] + note + ids[-side:]


class Summarises(Shortens):
    """The server keeps a sixteenth at both ends, and the second, fifth and eighth of nine passages between them."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        side = len(ids) // 16
        passage = (len(ids) - 2 * side) // 9
        kept = ids[:side]
        for number in (1, 4, 7):
            kept += ids[side + number * passage : side + (number + 1) * passage]
        return kept + ids[-side:]


class KeepsChancePassages(Shortens):
    """
    The server keeps the ends, and by chance one in three passages of 64 tokens between them, as an extractive summary
    does.
    """

    def shortened(self, ids: Ids, room: int) -> Ids:
        side = len(ids) // 16
        middle, kept = ids[side:-side], ids[:side]
        rng = Random(ids.tobytes())
        for start in range(0, len(middle), 64):
            if rng.random() < 1 / 3:
                kept += middle[start : start + 64]
        return kept + ids[-side:]


class SkipsBlock(Shortens):
    """The server does not read a sixteenth of the prompt, in the middle, as with a lost block of the KV cache."""

    def shortened(self, ids: Ids, room: int) -> Ids:
        gap = len(ids) // 16
        return ids[: len(ids) // 2 - gap] + ids[len(ids) // 2 + gap :]


class Reads32KiB(HostedApi):
    """The server reads only the first 32 KiB of each message."""

    def read(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        short = []
        for message in messages:
            text = decode(message.ids).encode()[: 1 << 15].decode("utf-8", "ignore")
            short.append(replace(message, ids=encode(text), text=text) if len(text) < len(message.text) else message)
        return tuple(short)


class DropsOlderMessages(Shortens):
    """The server drops the oldest messages until the rest fits. It reads a single message completely."""

    def read(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        while len(messages) > 1 and len(self.rendered(messages)) > self.window:
            messages = messages[1:]
        return messages
