"""The state paths by name. Each path sends its readings, and records the proof that the engine took the path."""

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_longctx.client import event_loop
from pytest_longctx.client.exchange import Exchange, UnservedError
from pytest_longctx.client.request import StreamedRequest
from pytest_longctx.client.server import Server
from pytest_longctx.client.state_paths import concurrent_requests, evidence, pressure, tasks
from pytest_longctx.client.state_paths.evidence import Path
from pytest_longctx.client.state_paths.reading import Reading
from pytest_longctx.client.state_paths.tasks import Task
from pytest_longctx.client.state_paths.walk import UnwalkableError, Walk
from pytest_longctx.client.watchdog import poll_metrics
from pytest_longctx.errors import UsageError, unknown
from pytest_longctx.findings.ask import Ask
from pytest_longctx.observation import Observation
from pytest_longctx.probe import grading, number_formats, registry
from pytest_longctx.processes.progress import ProgressCallback, no_progress
from pytest_longctx.prompts import PromptFactory

_ROUNDS: Final = 3
_BRANCHES: Final = 8
_HEADS, _TAILS = 5, 10
_BEHIND, _AT_ONCE = 4, 8
_TIERED: Final = "enable-hierarchical-cache"
"""SGLang's cache in host memory. ``/flush_cache`` empties it too (observed in 0.5.16)."""
_CONNECTED: Final = frozenset(
    ("kv-transfer-config", "kv-offloading-size", "kv-offloading-backend", _TIERED, "enable-lmcache")
)
"""Flags that connect an engine to an external cache."""


def cold(one: Walk) -> None:
    """Walk the cold path: new prompts, each read once with a separate salt. Every other path is compared with this one."""
    for _ in range(2):
        one.read(one.new())


def repeated(one: Walk) -> None:
    """Walk the path of a repetition: the same prompt again, twice."""
    task = one.new()
    one.read(task)
    one.again(task)
    one.again(task)


def _border(one: Walk, size: int | None, what: str) -> None:
    """
    Walk the path of a border: prompts share size - 1, size and size + 1 tokens with an earlier prompt, or have these
    lengths.
    """
    if size is None:
        raise UnwalkableError(f"the server has no {what}, or their size is not known")
    border = size * max(1, one.tokens // (2 * size))
    base = one.new(max(one.tokens, border + max(3, 2 * one.block)), border)
    one.read(base)
    for shift in (-1, 0, 1):
        other = tasks.other_tail(base, border + shift, one.prompt)
        one.read(other, reusable=border + shift)
    for shift in (-1, 0, 1):
        task = one.new(border + shift)
        one.read(task, judged=False)
        one.again(task)


def block_border(one: Walk) -> None:
    """Walk the path of a block border: cache hits that end just before, at and just after a border of a KV cache block."""
    _border(one, one.pieces.block, "blocks")


def chunk_border(one: Walk) -> None:
    """Walk the path of a prefill chunk's border: cache hits that end just before, at and just after the border."""
    _border(one, one.pieces.chunk, "prefill chunks")


def decode_border(one: Walk) -> None:
    """
    Walk the path of decoding at a block border: answers begin before, at and after the border, or cross it during
    decoding.
    """
    size = one.pieces.block
    if size is None:
        raise UnwalkableError("the block size of the KV cache is not known")
    border = size * max(1, one.tokens // size)
    for shift in (-1, 0, 1):
        one.read(one.new(border + shift))
    # Token i of an answer reads needle i: each needle is read by one of the first `_BEHIND` tokens behind the border.
    begins = range(0, one.asked.output_tokens, _BEHIND)
    for first in range(0, len(begins), _AT_ONCE):
        one.together([one.new(border - begin) for begin in begins[first : first + _AT_ONCE] if begin < border])


def window_border(one: Walk) -> None:
    """
    Walk the path of an attention window's or chunk's border: cache hits that end just before, at and just after the
    border.
    """
    _border(one, one.pieces.window, "attention windows")


def extended(one: Walk) -> None:
    """Walk the path of a conversation: each turn contains the prompt and the decoded answer of the previous turn."""
    task = one.new()
    said = one.read(task)
    for _ in range(2):
        answer = _ids(said)
        following = tasks.after(task, answer, one.prompt, one.block + 32)
        # vLLM does not compute the key and value of the last answered token; SGLang does where its scheduler overlaps steps.
        said = one.read(following, reusable=len(task.prompt) + len(answer) - 1)
        task = following


def _ids(said: Reading) -> list[int]:
    """Return the token ids of an answer on a path. Raises `UnwalkableError` if the server does not name them."""
    if said.answer_ids is None:
        raise UnwalkableError("the token ids of the answer are not known")
    return said.answer_ids


def other_beginning(one: Walk) -> None:
    """
    Walk the path of another beginning: the same blocks after a different first block, so that keys and values differ.

    The cache has that first block too, followed by other blocks. A lookup ends at the first block that it does not
    find.
    """
    task = one.new()
    other = tasks.other_beginning(task, one.block, one.prompt)
    one.read(task)
    one.read(tasks.other_tail(other, one.block, one.prompt))
    one.read(other, reusable=one.block)
    one.again(task)


def branch(one: Walk) -> None:
    """Walk the path of branches: different continuations of one beginning, all at once."""
    base, shared = one.new(), one.tokens // 2
    one.read(base)
    tails = [tasks.other_tail(base, shared, one.prompt) for _ in range(_BRANCHES)]
    one.together(tails, reusable=[shared] * len(tails))
    # A small KV cache needs the blocks behind the shared tokens for the tails; the shared blocks were in use all the time.
    one.read(base, reusable=shared)


def reset(one: Walk) -> None:
    """Walk the path of a reset: a prompt is read again after a reset of the prefix cache."""
    if outside := _connected(one) - {_TIERED}:
        raise UnwalkableError(f"a reset does not empty the external cache (flag {min(outside)})")
    task = one.new()
    one.read(task)
    one.again(task)
    one.reset()
    one.read(task)  # nothing of it may be found
    one.again(task)


def other_salt(one: Walk) -> None:
    """Walk the path of another salt: a prompt that is in the cache under a different salt."""
    if not one.server.backend.salted:
        raise UnwalkableError(f"the backend {one.server.backend.name} has no cache salt")
    task = one.new()
    one.read(task, salt="a")
    one.read(task, salt="b")  # nothing of it may be found
    one.again(task, salt="a")
    one.again(task, salt="b")


def crowd(one: Walk) -> None:
    """Walk the path of a crowd: fifty prompts at once, five beginnings with ten continuations each."""
    heads = [one.new() for _ in range(_HEADS)]
    shared = one.tokens // 2
    several = [tasks.other_tail(head, shared, one.prompt) for head in heads for _ in range(_TAILS)]
    one.together(several, reusable=[shared] * len(several), whole_only=False)
    before = one.scrape()
    one.together(several, reusable=[one.tokens] * len(several), whole_only=False)
    # Without a prefix cache, the crowd is the whole path.
    if one.caching is not False and not one.grown("cached_tokens", before):
        one.not_taken = "not taken: the server counts no token of the crowd that came from its cache"


def abandoned(one: Walk) -> None:
    """Walk the path of an abandoned prompt: the client disconnects during the prefill, and the prompt is sent again."""
    usual_s = one.read(one.new(), judged=False).exchange.ttft_s or 0.1
    for _ in range(_ROUNDS):
        task = one.new()
        if event_loop.run(_leave(one.server, task, usual_s / 2, one.watch)):
            one.again(task, whole_only=False)
            one.again(task, whole_only=one.caching is not False)
            return
    raise UnwalkableError(
        f"{_ROUNDS} prompts of {one.tokens:,} tokens were answered before the client could disconnect"
    )


async def _leave(server: Server, task: Task, after_s: float, watch: ProgressCallback) -> bool:
    """Disconnect from *task* *after_s* seconds after the upload, and return whether the answer had not yet come."""
    async with poll_metrics(server) as gauges:
        deadline_s = server.deployment.timeouts.request_s(len(task.prompt), 1)
        talk = StreamedRequest(server, task.prompt, task.output_tokens, deadline_s, watch, gauges=gauges)
        asking = asyncio.create_task(talk.run())
        end_s = time.monotonic() + deadline_s
        while not asking.done() and time.monotonic() < end_s:
            if talk.uploaded_s is not None and time.monotonic() - talk.uploaded_s > after_s:
                break
            await asyncio.sleep(0.005)
        answered = asking.done() or bool(talk.arrivals_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        while not answered and (await gauges.now()).running and time.monotonic() < end_s:  # noqa: ASYNC110 - a page
            await asyncio.sleep(0.02)
    return not answered


def _connected(one: Walk) -> set[str]:
    """Return the flags of the walk's deployment that connect the engine to an external cache."""
    return {name for name, value in one.server.deployment.flags.items() if name in _CONNECTED and value}


def _empty(one: Walk) -> None:
    """Empty the engine's own cache on the external path: by a reset, or by other prompts if a reset empties both caches."""
    if one.server.deployment.flags.get(_TIERED):
        pressure.fill(one)
    else:
        one.reset()


def external(one: Walk) -> None:
    """
    Walk the path of an external cache: a prompt is read from the external cache after the engine's own cache was
    emptied.
    """
    before = one.scrape()
    if not _connected(one) and not before.external_tokens:
        raise UnwalkableError("no flag of the deployment connects an external cache, and no tokens came from one")
    task = one.new()
    one.read(task)
    _empty(one)
    before = one.scrape()
    one.again(task)
    came = one.grown("external_tokens", before)
    one.counts["external_tokens"] = came
    _empty(one)
    one.read(tasks.other_tail(task, one.tokens // 2, one.prompt), reusable=one.tokens // 2, whole_only=False)
    if came is None:
        one.not_taken = "not taken: the server has no counter of tokens that came from outside the engine"
    elif not came:
        # A flag claims a cache; that it never answers is a fault, which the bound on hit_share reports.
        one.caching = True


def speculation(one: Walk) -> None:
    """
    Walk the path of speculation: an answer in the prompt causes right drafts, and the reversed answer causes wrong
    drafts.
    """
    before = one.scrape()
    if before.drafted_tokens is None:
        raise UnwalkableError("the server has no counter of drafted tokens, so it does not decode speculatively")
    task = one.new()
    answer = _ids(one.read(task))
    following = tasks.after(task, answer, one.prompt, one.block)
    one.read(following, reusable=len(task.prompt) + len(answer) - 1, whole_only=False)
    # The prompt has the tokens of its right answer in reverse, so that each draft made from them is wrong.
    one.read(tasks.after_reversed(tasks.other_tail(task, 0, one.prompt), answer, one.prompt, one.block))
    for name in ("drafted_tokens", "accepted_tokens"):
        one.counts[name] = one.grown(name, before)
    drafted, accepted = one.counts["drafted_tokens"], one.counts["accepted_tokens"]
    if not drafted:
        one.not_taken = "not taken: the server counts no drafted token"
    elif accepted is not None and accepted >= drafted:
        one.not_taken = f"not taken: all of {drafted:,} drafted tokens were accepted, so that no draft was wrong"


def chunks(one: Walk) -> None:
    """
    Walk the path of prefill chunks: the engine computes a prompt in several chunks, so the KV cache usage grows in
    steps.
    """
    for _ in range(2):
        task = one.new()
        exchange, levels = event_loop.run(_watched(one.server, task, one.watch))
        if exchange.ending != "complete":
            raise UnservedError(exchange.ending, exchange)
        one.readings.append(Reading(task, exchange))
        one.counts["prefill_steps"] = min(levels, one.counts.get("prefill_steps") or levels)
    if (one.counts["prefill_steps"] or 0) < 2:
        one.not_taken = "not taken: the KV cache in use did not grow while a prompt was read"


async def _watched(server: Server, task: Task, watch: ProgressCallback) -> tuple[Exchange, int]:
    """
    Read *task* on the path of chunks. Return its exchange, and the number of KV cache usages that were seen before the
    first token.
    """
    async with poll_metrics(server) as gauges:
        deadline_s = server.deployment.timeouts.request_s(len(task.prompt), task.output_tokens)
        talk = StreamedRequest(server, task.prompt, task.output_tokens, deadline_s, watch, gauges=gauges, traced=True)
        asking, seen = asyncio.create_task(talk.run()), set[float]()
        while not asking.done() and not talk.arrivals_s:
            usage = (await gauges.now()).kv_usage
            if usage and not talk.arrivals_s:
                seen.add(usage)
            await asyncio.sleep(0.005)
        return await asking, len(seen)


def stored_dtype(one: Walk) -> None:
    """
    Walk the path of the stored dtype: keys differ by ever smaller steps, and the KV cache keeps as many bits as its
    dtype has.
    """
    if not one.probe:
        raise UnwalkableError("the precision of keys is provable only for a probe")
    if one.server.deployment.model.make in registry.FAMILIES:
        raise UnwalkableError("this probe has no keys that measure the precision of a KV cache")
    asked = str(one.server.deployment.flags.get("kv-cache-dtype", "auto"))
    computed = str(one.server.words.get("dtype") or one.server.deployment.flags.get("dtype", "auto"))
    bits = number_formats.mantissa_bits(computed if asked == "auto" else asked)
    if bits is None:
        raise UnwalkableError(
            f"the number of key bits that {asked!r} keeps is unknown for the model dtype {computed!r}"
        )
    ladder = grading.plant(one.prompt(one.tokens))
    found = grading.ladder_text(one.read(Task(ladder.prompt, ladder.output_tokens)).exchange.text)
    one.counts |= {
        "kv_mantissa_bits": found.mantissa_bits,
        "kv_ladder_breaks": found.breaks,
        "kv_bits_beyond": None if found.mantissa_bits is None else found.mantissa_bits - bits,
    }


PATHS: Mapping[str, Path] = MappingProxyType(
    {
        "cold": cold,
        "repeated": repeated,
        "block-border": block_border,
        "chunk-border": chunk_border,
        "window-border": window_border,
        "extended": extended,
        "branch": branch,
        "evicted": pressure.evicted,
        "preempted": pressure.preempted,
        "reset": reset,
        "other-salt": other_salt,
        "crowd": crowd,
        "abandoned": abandoned,
        "external": external,
        "speculation": speculation,
        "chunks": chunks,
        "stored-dtype": stored_dtype,
        "same-at-once": concurrent_requests.same_at_once,
        "lengths": concurrent_requests.lengths,
        "arriving": concurrent_requests.arriving,
        "leaving": concurrent_requests.leaving,
        "cancelled": concurrent_requests.cancelled,
        "decode-border": decode_border,
        "reused": pressure.reused,
        "other-beginning": other_beginning,
    }
)
"""Every state path by its name in a finding."""


def observe(server: Server, prompt: PromptFactory, asked: Ask, watch: ProgressCallback = no_progress) -> Observation:
    """Walk the state path ``asked.path``, and return the evidence. Raises `UsageError` for an unknown path."""
    if asked.path is None or asked.path not in PATHS:
        raise UsageError(unknown("path", str(asked.path), PATHS))
    return evidence.observe(PATHS[asked.path], Walk(server, prompt, asked, watch))
