"""State paths on which the KV cache is full: the engine gives blocks to other requests, and preempts requests."""

from dataclasses import replace
from typing import Final

from pytest_longctx.client.state_paths.walk import UnwalkableError, Walk

_ROUNDS: Final = 3
_POOLS: Final = 1.2
"""Number of times that other prompts must fill the KV cache before an earlier prompt is surely evicted."""
_AFFORDABLE_TOKENS: Final = 120_000
"""Most prompt tokens that one path may send to fill a KV cache."""
_AFFORDABLE_BLOCKS: Final = 400
"""Most requests that one path may send to use each block of a KV cache once."""


def evicted(one: Walk) -> None:
    """Walk the path of eviction under pressure: a prompt is read again after other prompts have taken its blocks."""
    task = one.new()
    one.read(task)
    one.again(task)
    fill(one)
    last = one.again(task, whole_only=False)
    cached = last.exchange.usage.cached_tokens
    for _ in range(_ROUNDS - 1):
        if not cached:
            break
        fill(one)
        last = one.again(task, whole_only=False)
        cached = last.exchange.usage.cached_tokens
    if cached:
        one.not_taken = (
            f"not taken: {cached:,} tokens of the prompt were still cached after other prompts had filled the pool"
        )
    one.again(task)


def _pool(one: Walk) -> float:
    pool = one.server.figures.get("kv_cache_tokens")
    if pool is None:
        raise UnwalkableError("the size of the server's KV cache is not known")
    if pool * _POOLS > _AFFORDABLE_TOKENS:
        raise UnwalkableError(
            f"the server's KV cache holds {pool:,.0f} tokens, but the test sends at most {_AFFORDABLE_TOKENS:,} to fill it; "
            "give the deployment a smaller KV cache (--num-gpu-blocks-override)"
        )
    return pool


def fill(one: Walk) -> None:
    """Fill the KV cache, so that the engine evicts blocks, by reading other prompts with more tokens than the cache holds."""
    for _ in range(int(_POOLS * _pool(one) / one.tokens) + 1):
        one.read(replace(one.new(), output_tokens=1), judged=False)


def preempted(one: Walk) -> None:
    """Walk the path of preemption under pressure: answers cross a block border, and the KV cache cannot hold all requests."""
    at_once = int(one.server.deployment.flags.get("max-num-seqs", 16))
    blocks = int(_POOLS * _pool(one) / (at_once * one.block)) + 1
    length = blocks * one.block - 8
    before = one.scrape()
    preemptions: float | None = 0
    for _ in range(_ROUNDS):
        one.together([one.new(length) for _ in range(at_once)], whole_only=False)
        preemptions = one.grown("preemptions", before)
        if preemptions != 0:
            break
    one.counts["preemptions"] = preemptions
    if not preemptions:
        one.not_taken = "not taken: the server counts no preemption" + ("" if preemptions == 0 else " on its page")


def reused(one: Walk) -> None:
    """
    Walk the path of reuse under pressure: new prompts, after other prompts have used every block of the KV cache, or
    every state.
    """
    if one.blocks is not None and one.blocks <= _AFFORDABLE_BLOCKS:
        # Each request takes at least one block, however it is divided, and freed blocks are taken last.
        tokens, at_once = 2 * one.asked.output_tokens, int(one.server.deployment.flags.get("max-num-seqs", 16))
        for begin in range(0, one.blocks, at_once):
            count = min(at_once, one.blocks - begin)
            one.together([replace(one.new(tokens), output_tokens=1) for _ in range(count)], judged=False)
    else:
        fill(one)
    one.read(one.new())
    one.read(one.new(one.tokens // 4))
