"""
State paths on which requests share the steps of the engine: requests start, end and disconnect while others are
computed.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pytest_longctx.client import event_loop
from pytest_longctx.client.exchange import Exchange, UnservedError
from pytest_longctx.client.request import StreamedRequest
from pytest_longctx.client.state_paths.reading import Reading
from pytest_longctx.client.state_paths.tasks import Task
from pytest_longctx.client.state_paths.walk import Walk
from pytest_longctx.client.watchdog import poll_metrics

_ALIKE, _LENGTHS, _STAGGERED, _STAYING = 4, 8, 4, 3
_SHORT_ANSWERS: Final = (1, 5, 17, 33)
"""Tokens of answers that end while longer answers continue."""
_SOME_TOKENS: Final = 4
_POLL_S: Final = 0.005


def answered_at_once(exchanges: Sequence[Exchange]) -> int:
    """Return the largest number of answers in progress at one time, each from its first token to its last."""
    spans = [(each.arrivals_s[0], each.arrivals_s[-1]) for each in exchanges if each.arrivals_s]
    return max((sum(first <= begin <= last for first, last in spans) for begin, _ in spans), default=0)


def _count_concurrent(one: Walk, exchanges: Sequence[Exchange]) -> None:
    count = answered_at_once(exchanges)
    one.counts["answered_at_once"] = count
    if count <= 1:
        one.not_taken = "not taken: no two answers were in progress at one time"


def same_at_once(one: Walk) -> None:
    """Walk the path of concurrent copies: the same uncached prompt several times at once."""
    task = one.new()
    found = one.together([task] * _ALIKE, reusable=[one.tokens] * _ALIKE, whole_only=False)
    _count_concurrent(one, [each.exchange for each in found])


def lengths(one: Walk) -> None:
    """Walk the path of different lengths: prompts of different lengths at once."""
    several = [
        one.new(max(one.tokens * part // _LENGTHS, 2 * one.asked.output_tokens)) for part in range(_LENGTHS, 0, -1)
    ]
    _count_concurrent(one, [each.exchange for each in one.together(several)])


def leaving(one: Walk) -> None:
    """
    Walk the path of leaving requests: answers end one after the other, so that the other requests move within the
    batch.
    """
    short = [replace(one.new(), output_tokens=count) for count in _SHORT_ANSWERS]
    whole = [one.new() for _ in _SHORT_ANSWERS]
    found = one.together([task for pair in zip(short, whole, strict=True) for task in pair], judged=False)
    stayed = found[1::2]
    one.readings += stayed
    ends = [each.exchange.ended_s for each in found[::2]]
    during = sum(each.exchange.arrivals_s[-1] > end for each in stayed for end in ends if each.exchange.arrivals_s)
    one.counts["ended_during_answer"] = during
    if not during:
        one.not_taken = "not taken: no answer ended while another went on"


def arriving(one: Walk) -> None:
    """Walk the path of arriving requests: each prompt arrives while the previous one is answered."""
    several = [one.new() for _ in range(_STAGGERED)]
    exchanges = event_loop.run(_staggered(one, several))
    _keep(one, several, exchanges)
    pairs = itertools.pairwise(exchanges)
    count = sum(
        bool(before.arrivals_s and after.arrivals_s)
        and before.arrivals_s[0] <= after.started_s
        and before.arrivals_s[-1] > after.arrivals_s[0]
        for before, after in pairs
    )
    one.counts["arrived_during_answer"] = count
    if not count:
        one.not_taken = "not taken: no prompt was read while another was answered"


async def _staggered(one: Walk, several: Sequence[Task]) -> list[Exchange]:
    async with poll_metrics(one.server) as gauges:
        asking = []
        for task in several:
            talk = one.talk(task, gauges=gauges)
            asking.append(asyncio.create_task(talk.run()))
            await _until_tokens(talk, asking[-1], 1)
        return await asyncio.gather(*asking)


async def _until_tokens(talk: StreamedRequest, asking: asyncio.Task[Exchange], count: int) -> None:
    """Wait until *count* chunks of one of several concurrent answers have arrived, or until this answer ends."""
    while not asking.done() and len(talk.arrivals_s) < count:  # noqa: ASYNC110 - a list that the request appends to
        await asyncio.sleep(_POLL_S)


def cancelled(one: Walk) -> None:
    """Walk the path of cancelled requests: clients disconnect beside other answers, and new prompts take their place."""
    before, after = [one.new() for _ in range(_STAYING)], [one.new() for _ in range(_STAYING)]
    exchanges, left = event_loop.run(_cancelling(one, before, after))
    _keep(one, [*before, *after], exchanges)
    during = sum(each.arrivals_s[-1] > left[-1] for each in exchanges[:_STAYING] if each.arrivals_s) if left else 0
    one.counts["cancelled_during_answer"] = len(left) if during else 0
    if not during:
        one.not_taken = "not taken: no client could disconnect while its request and others were being answered"


async def _cancelling(one: Walk, before: Sequence[Task], after: Sequence[Task]) -> tuple[list[Exchange], list[float]]:
    """
    Answer the tasks *before*, disconnect other clients, and answer the tasks *after*. Return the exchanges of *before*
    and *after*, and the times of the disconnections.
    """
    left: list[float] = []
    async with poll_metrics(one.server) as gauges:
        talks = [one.talk(task, gauges=gauges) for pair in before for task in (one.new(), pair)]
        asking = [asyncio.create_task(talk.run()) for talk in talks]
        for talk, going in zip(talks[::2], asking[::2], strict=True):
            await _until_tokens(talk, going, _SOME_TOKENS)
            if not going.done():
                left.append(talk.clock())
            going.cancel()
        await asyncio.gather(*asking[::2], return_exceptions=True)
        new = [asyncio.create_task(one.talk(task, gauges=gauges).run()) for task in after]
        return await asyncio.gather(*asking[1::2], *new), left


def _keep(one: Walk, several: Sequence[Task], exchanges: Sequence[Exchange]) -> None:
    """Store the *exchanges* of concurrent requests as readings. Raises `UnservedError` for the first that was not served."""
    for exchange in exchanges:
        if exchange.ending != "complete":
            raise UnservedError(exchange.ending, exchange)
    one.readings += [Reading(task, exchange) for task, exchange in zip(several, exchanges, strict=True)]
